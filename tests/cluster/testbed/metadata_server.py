"""ML Metadata's gRPC service over the store that its Python package holds; there is no package of its server. Runs in
an environment of its own, as `metadata_server.py FILE ADDRESS`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from ml_metadata import errors
from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2, metadata_store_service_pb2

SERVICE = metadata_store_service_pb2.DESCRIPTOR.services_by_name["MetadataStoreService"]
CODES = {code.value[0]: code for code in grpc.StatusCode}


def main(file: str, address: str) -> None:
    """Serve what is in a file of SQLite, which is made where it is not there."""
    config = metadata_store_pb2.ConnectionConfig()
    config.sqlite.filename_uri = file
    config.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    store, alone = MetadataStore(config), threading.Lock()
    handlers = {method.name: _handler(store, alone, method) for method in SERVICE.methods}
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),))
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


def _handler(store: MetadataStore, alone: threading.Lock, method: Any) -> grpc.RpcMethodHandler:
    """The store has a function for each method of the service, of the same name."""
    asked, answered = (
        getattr(metadata_store_service_pb2, each.name) for each in (method.input_type, method.output_type)
    )

    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        response = answered()
        try:
            with alone:
                store._call(method.name, request, response)
        except errors.StatusError as error:
            context.abort(CODES.get(error.error_code, grpc.StatusCode.UNKNOWN), str(error))
        return response

    serialise: Callable[[Any], bytes] = answered.SerializeToString
    return grpc.unary_unary_rpc_method_handler(answer, asked.FromString, serialise)


if __name__ == "__main__":
    main(*sys.argv[1:])
