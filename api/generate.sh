#!/bin/sh
# Writes everything that is generated from the protos: Go beside them, api/openapi.yaml, and web/src/gen.
# It needs Go and npm.
set -eu
cd "$(dirname "$0")/.."

buf=web/node_modules/.bin/buf
[ -x $buf ] || npm --prefix web ci --no-audit --no-fund
go build -modfile=tools/go.mod -o .buf/bin/ github.com/sudorandom/protoc-gen-connect-openapi
go run ./api/imports .buf/imports

$buf format -w api
rm -rf .buf/gen
$buf generate --output .buf/gen
go run ./api/openapi .buf/gen/openapi.yaml .buf/gen/api/openapi.yaml
# The old goes only now that there is something new, and all of it, so that nothing outlives its proto.
find api/plinth \( -name '*.pb.go' -o -name '*.connect.go' \) -delete
rm -rf web/src/gen
cp -R .buf/gen/api .buf/gen/web .
