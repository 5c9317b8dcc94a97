"""The request's path inside the predictor: decode, look up, predict, count. Nothing here trains or decides."""
