package e2e

import (
	"context"
	"net/http"
	neturl "net/url"
	"testing"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/pg/pgtest"
)

// A server with a login that owns nothing serves what somebody else has migrated. A database that takes no writes any more is
// unavailable, to readiness as to callers, and is used again once it does.
func TestReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	private := pgtest.NewServer(t)
	owner, err := pgx.Connect(t.Context(), private.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = owner.Close(context.Background()) }()
	if _, err := owner.Exec(t.Context(), `CREATE ROLE runtime LOGIN PASSWORD 'secret' IN ROLE plinth_app, plinth_system`); err != nil {
		t.Fatal(err)
	}
	login, err := neturl.Parse(private.URL())
	if err != nil {
		t.Fatal(err)
	}
	login.User = neturl.UserPassword("runtime", "secret")
	server := start(t, "server", with(backends(t, "postgres"), map[string]string{"DATABASE_URL": login.String(), "DATABASE_MIGRATE": "false"}))
	url := "http://" + server.address(t)
	ready(t, url)
	client := grpcClient(t, url)
	newQueue(t, client, "orders")
	private.Demote(t)
	eventually(t, "the server is not ready", func() bool { return statusOf(url+"/readyz") == http.StatusServiceUnavailable })
	_, err = client.Publish(t.Context(), &messagev1.PublishRequest{Queue: "orders", Payload: &messagev1.PublishRequest_Message{Message: "lost"}})
	wantCode(t, err, connect.CodeUnavailable)
	_, err = client.CreateQueue(t.Context(), &messagev1.CreateQueueRequest{Name: "more"})
	wantCode(t, err, connect.CodeUnavailable)
	private.Recover(t)
	ready(t, url)
	publish(t, client, "orders", "kept")
	server.stop(t)
}
