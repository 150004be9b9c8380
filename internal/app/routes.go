package app

import (
	"context"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"

	"plinth/api"
	"plinth/internal/kv"
	"plinth/internal/rpc"
)

// public returns the RPCs that everybody may call: those by which clients find out which services there are, and whether
// they can serve. All other RPCs need the scope that their proto names.
func public() []string {
	return []string{
		"/grpc.health.v1.Health/Check",
		"/grpc.health.v1.Health/Watch",
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
	}
}

// checks returns the health checks of the backends that several domains need.
func (a *App) checks() []check {
	checks := []check{
		{"postgres", needed, a.askPostgres()},
		{"redis", useful, func(ctx context.Context) error { return kv.Ping(ctx, a.redis) }},
	}
	if a.bucket != nil {
		checks = append(checks, check{"s3", useful, a.bucket.Ping})
	}
	return checks
}

// services are the RPCs of the domains, and those by which clients find out what is served.
func (a *App) services() []rpc.Service {
	var services []rpc.Service
	names := []string{grpchealth.HealthV1ServiceName}
	for _, d := range a.domains {
		if d.service != nil {
			path, _ := d.service()
			services, names = append(services, d.service), append(names, strings.Trim(path, "/"))
		}
	}
	a.health.services = names
	reflector := grpcreflect.NewStaticReflector(names...)
	return append(services,
		a.health.handler,
		func(o ...connect.HandlerOption) (string, http.Handler) {
			return grpcreflect.NewHandlerV1(reflector, o...)
		},
		func(o ...connect.HandlerOption) (string, http.Handler) {
			return grpcreflect.NewHandlerV1Alpha(reflector, o...)
		},
	)
}

// routes are the plain routes: those of the process, and those of the domains.
func (a *App) routes() []rpc.Route {
	routes := []rpc.Route{
		{Pattern: "GET /health", Public: true, Serve: a.health.serveHealth},
		{Pattern: "GET /livez", Public: true, Serve: a.health.serveLive},
		{Pattern: "GET /readyz", Public: true, Serve: a.health.serveReady},
		{Pattern: "GET /openapi.yaml", Public: true, Serve: serveOpenAPI()},
	}
	for _, d := range a.domains {
		routes = append(routes, d.routes...)
	}
	return routes
}

// serveOpenAPI returns what serves the OpenAPI document. It is large, and a browser asks for it each time: it gets it compressed, or is told
// that it has it.
func serveOpenAPI() func(http.ResponseWriter, *http.Request) error {
	document := newStaticFile("application/yaml", api.OpenAPI)
	return func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Cache-Control", "no-cache")
		document.serve(w, r)
		return nil
	}
}
