package app

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"

	"plinth/api"
	"plinth/internal/rpc"
)

// public are the RPCs that everybody may call, by which clients find out what is served, and whether. All others need the
// scope that their proto names.
func public() []string {
	return []string{
		"/grpc.health.v1.Health/Check",
		"/grpc.health.v1.Health/Watch",
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
		"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
	}
}

// checks are of the backends that several domains stand on.
func (a *App) checks() []check {
	checks := []check{
		{"postgres", needed, a.askPostgres()},
		{"redis", useful, func(ctx context.Context) error { return a.redis.Ping(ctx).Err() }},
	}
	if a.bucket != nil {
		checks = append(checks, check{"s3", useful, a.bucket.Ping})
	}
	return checks
}

// routes mounts everything on the one port.
func (a *App) routes() (*http.ServeMux, error) {
	mux := http.NewServeMux()
	options := a.stack.Options()
	var services []rpc.Service
	names := []string{grpchealth.HealthV1ServiceName}
	for _, d := range a.domains {
		if d.service == nil {
			continue
		}
		s := rpc.Mount(d.service(options...))
		mux.Handle(s.Path, s.Handler)
		services, names = append(services, s), append(names, strings.Trim(s.Path, "/"))
	}
	rest, err := rpc.REST(services)
	if err != nil {
		return nil, fmt.Errorf("build the REST routes: %w", err)
	}
	mux.Handle("/api/", rest)

	a.health.services = names
	mux.Handle(a.untilDrain(grpchealth.NewHandler(a.health, options...)))
	reflector := grpcreflect.NewStaticReflector(names...)
	mux.Handle(a.untilDrain(grpcreflect.NewHandlerV1(reflector, options...)))
	mux.Handle(a.untilDrain(grpcreflect.NewHandlerV1Alpha(reflector, options...)))

	mux.HandleFunc("GET /health", a.health.serveHealth)
	mux.HandleFunc("GET /livez", a.health.serveLive)
	mux.HandleFunc("GET /readyz", a.health.serveReady)
	mux.HandleFunc("GET /openapi.yaml", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = w.Write(api.OpenAPI)
	})
	return mux, nil
}

// untilDrain ends the streams of handlers that know nothing of a shutdown, which would otherwise wait for them.
func (a *App) untilDrain(path string, handler http.Handler) (string, http.Handler) {
	return path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		told := make(chan struct{})
		stop := context.AfterFunc(a.draining, func() {
			defer close(told)
			cancel()
			_ = http.NewResponseController(w).SetReadDeadline(time.Now())
		})
		defer func() {
			if !stop() {
				<-told // Once this handler has returned, w must not be touched.
			}
		}()
		handler.ServeHTTP(w, r.WithContext(ctx))
	})
}
