# List the recipes.
default:
    @{{ just_executable() }} --list

# Run the server, the worker and private backends in one command.
dev:
    go run ./cmd/dev

# Run the tests.
test +args="./...":
    go test {{ args }}

# Check formatting, vet and lint, of Go and protos.
check: tools
    test -z "$(gofmt -l $(git ls-files --cached --others --exclude-standard '*.go'))"
    go vet ./...
    .buf/bin/golangci-lint run
    web/node_modules/.bin/buf lint
    web/node_modules/.bin/buf format --diff --exit-code api

# Write all code that is generated from the protos.
generate:
    api/generate.sh

# Build the console.
web:
    [ -x web/node_modules/.bin/vite ] || npm --prefix web ci --no-audit --no-fund
    npm --prefix web run build

# Run the benchmarks.
bench:
    go run ./bench/rpc -check
    go run ./bench/message

# Run Connect's conformance suite against the production stack.
conformance:
    internal/rpc/testdata/conformance/run

# Run the whole gate, as CI does.
ci:
    .ci/run

# Build the server and the worker into bin/.
build:
    go build -trimpath -o bin/ ./cmd/server ./cmd/worker

# Install what check needs.
[private]
tools:
    [ -x web/node_modules/.bin/buf ] || npm --prefix web ci --no-audit --no-fund
    go build -modfile=tools/go.mod -o .buf/bin/ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
    go run ./api/imports .buf/imports
