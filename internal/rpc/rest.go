package rpc

import (
	"net/http"

	"connectrpc.com/vanguard"
)

// Service is an RPC service: the path that it is mounted on, and its handler.
type Service struct {
	Path    string
	Handler http.Handler
}

// Mount names what a generated New…Handler returns.
func Mount(path string, handler http.Handler) Service { return Service{path, handler} }

// REST transcodes the routes in the protos of services. It stands beside their own paths, not over them, so that those are
// served by Connect as it is. Unknown query parameters are ignored, as unknown fields are.
func REST(services []Service) (http.Handler, error) {
	var transcoded []*vanguard.Service
	for _, s := range services {
		transcoded = append(transcoded, vanguard.NewService(s.Path, s.Handler,
			vanguard.WithMaxMessageBufferBytes(MaxMessageBytes),
			vanguard.WithRESTUnmarshalOptions(vanguard.RESTUnmarshalOptions{DiscardUnknownQueryParams: true})))
	}
	return vanguard.NewTranscoder(transcoded)
}
