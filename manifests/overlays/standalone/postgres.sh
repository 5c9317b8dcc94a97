#!/bin/sh
# PostgreSQL with one database each for Feast's registry, MLflow and the ledger. It is prepared beside its place and
# moved there whole, so that a pod that is killed meanwhile begins anew.
set -eu
data=/var/lib/postgresql/data/serinus
sockets=/tmp
if [ ! -d "$data" ]; then
    new=$data.new
    rm -rf "$new"
    printf '%s\n' "$PASSWORD" > /tmp/password
    initdb --pgdata="$new" --username=postgres --pwfile=/tmp/password --encoding=UTF8 --locale=C.UTF-8 \
        --auth-local=trust --auth-host=scram-sha-256 --no-instructions
    rm /tmp/password
    echo 'host all all all scram-sha-256' >> "$new/pg_hba.conf"
    pg_ctl --pgdata="$new" --wait --options="-c listen_addresses='' -c unix_socket_directories=$sockets" start
    psql --host="$sockets" --username=postgres --quiet --set=ON_ERROR_STOP=1 --set=password="$PASSWORD" <<'SQL'
CREATE ROLE serinus LOGIN PASSWORD :'password';
CREATE DATABASE feast OWNER serinus;
CREATE DATABASE mlflow OWNER serinus;
CREATE DATABASE ledger OWNER serinus;
SQL
    pg_ctl --pgdata="$new" --wait --mode=fast stop
    mv "$new" "$data"
fi
# A volume that is mounted again belongs to the pod's group as a whole, which PostgreSQL refuses.
chmod 0700 "$data"
exec postgres -D "$data" -c listen_addresses='*' -c unix_socket_directories="$sockets" -c max_connections=200
