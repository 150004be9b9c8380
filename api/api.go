// Package api holds the public contract: the protos, the Go code generated from them beside them, and the OpenAPI
// document of their REST routes.
package api

import _ "embed"

// OpenAPI is the OpenAPI 3.1 document, in YAML.
//
//go:embed openapi.yaml
var OpenAPI []byte
