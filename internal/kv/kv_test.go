package kv_test

import (
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"plinth/internal/kv"
)

// The client's own words go to the log, not to standard error.
func TestLogTo(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	kv.LogTo(zap.New(core))
	t.Cleanup(func() { kv.LogTo(zap.NewNop()) })
	client, err := kv.Open("redis://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if client.Ping(t.Context()).Err() == nil || logs.Len() == 0 {
		t.Errorf("%d lines", logs.Len())
	}
}
