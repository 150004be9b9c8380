package main

import (
	"context"
	"net/http"
	"os"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/otelconnect"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/bench/cost"
)

// stock returns the bare handler with what is seen of it as each library's own guide has it: otelconnect for traces, of which one in a
// hundred is recorded and exported to url, and for metrics, and a zap logger that writes a line for each call to a file, at once.
func stock(url string, file *os.File) (http.Handler, error) {
	exporter, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(url))
	if err != nil {
		return nil, err
	}
	seen, err := otelconnect.NewInterceptor(
		otelconnect.WithTracerProvider(sdk.NewTracerProvider(
			sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(ratio))), sdk.WithBatcher(exporter))),
		otelconnect.WithMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))),
		otelconnect.WithPropagator(propagation.TraceContext{}))
	if err != nil {
		return nil, err
	}
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.Lock(file), zap.InfoLevel))
	mux := http.NewServeMux()
	mux.Handle(messagev1.NewMessageServiceHandler(cost.Stub{}, connect.WithInterceptors(seen, logging(log))))
	return mux, nil
}

// logging writes a line for each call.
func logging(log *zap.Logger) connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
			start := time.Now()
			response, err := next(ctx, request)
			code := "ok"
			if err != nil {
				code = connect.CodeOf(err).String()
			}
			log.Info("request", zap.String("procedure", request.Spec().Procedure), zap.String("protocol", request.Peer().Protocol),
				zap.String("peer", request.Peer().Addr), zap.String("code", code), zap.Duration("duration", time.Since(start)))
			return response, err
		}
	}
}
