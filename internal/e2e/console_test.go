package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"plinth/internal/blob/blobtest"
)

// The console does in a browser what people do with it, and no page of it does what none may: send a request elsewhere, break its
// policy, or run what is in a message or a file. Without CI=true it does what
// people do most. E2E_SCREENSHOTS names a folder for pictures of all pages.
func TestConsole(t *testing.T) {
	t.Parallel()
	chromium := tool(t, "chromium", "chromium-browser", "google-chrome")
	env := with(with(backends(t, "postgres"), blobtest.New(t).Env()), map[string]string{"WORKER_INLINE": "true"})
	postgres, through := newProxy(t, env["DATABASE_URL"])
	postgres.open()
	env["DATABASE_URL"] = through
	issuer := newIssuer(t)
	env = with(env, map[string]string{
		"AUTH_JWT_ISSUER": issuer.URL, "AUTH_JWT_AUDIENCE": "plinth", "AUTH_CONSOLE_CLIENT_ID": issuerClient, "AUTH_CONSOLE_SCOPES": "openid offline_access",
		"OUTBOUND_ALLOWED_NETWORKS": "127.0.0.0/8", "SECRET_KEYS": base64.StdEncoding.EncodeToString(make([]byte, 32)),
	})
	server := start(t, "server", env)
	t.Cleanup(func() { server.stop(t) })
	address := server.address(t)
	url := "http://" + address
	ready(t, url)
	acme, beta, other, many := newTenant(t, url, "acme"), newTenant(t, url, "beta"), newTenant(t, url, "other"), newTenant(t, url, "many")

	network, front := newProxy(t, url)
	network.open()
	faults := http.NewServeMux() // What the browser's driver does to the server.
	for name, p := range map[string]*proxy{"postgres": postgres, "network": network} {
		faults.HandleFunc("POST /"+name+"/away", func(http.ResponseWriter, *http.Request) {
			p.opened.Store(false)
			p.partition()
		})
		faults.HandleFunc("POST /"+name+"/back", func(http.ResponseWriter, *http.Request) { p.open() })
	}
	faults.HandleFunc("POST /hook", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	for name, rows := range map[string]string{"letters": tenThousandLetters, "queues": tenThousandQueues} {
		faults.HandleFunc("POST /"+name, func(w http.ResponseWriter, r *http.Request) {
			if err := insert(r.Context(), env["DATABASE_URL"], rows); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	faults.Handle("POST /issuer/", http.StripPrefix("/issuer", issuer.faults()))
	control := httptest.NewServer(faults)
	t.Cleanup(control.Close)
	steps, err := filepath.Abs("testdata/clients/console")
	if err != nil {
		t.Fatal(err)
	}
	where, _ := json.Marshal(map[string]string{ // Strings alone, so it cannot fail.
		"chromium": chromium, "server": front, "direct": url, "protos": descriptorSet(t), "acme": acme, "beta": beta, "other": other, "many": many,
		"faults": control.URL, "issuer": issuer.URL, "pictures": os.Getenv("E2E_SCREENSHOTS"),
	})
	driver := nodeWithin(t, 15*time.Minute, "console.mjs", "axe-core", steps, string(where))
	driver.Env = append(driver.Env, "HOME="+t.TempDir(), "PATH="+pathWithGrpcurl(t)) // The browser writes there.
	var outcome map[string]string
	output(t, driver, &outcome)
	if taken := len(outcome); taken < 4 || ci() && taken < 48 {
		t.Errorf("only %d steps were taken", taken)
	}
	for step, fault := range outcome {
		t.Run(step, func(t *testing.T) {
			if fault != "" {
				t.Error(fault)
			}
		})
	}
}

// tenThousandLetters are dead letters of acme's queue ten-thousand, which failed a second after one another.
const tenThousandLetters = `
	INSERT INTO dead_letters (tenant, id, queue, message_id, reason, attempts, first_failed_at, last_failed_at, headers, attributes, body, folded_reason)
	SELECT 'acme', gen_random_uuid(), 'ten-thousand', gen_random_uuid(), 'reason ' || n, 3, now(), now() - n * interval '1s', '{}', '{}',
		convert_to('{"n": ' || n || '}', 'UTF8'), 'reason ' || n
	FROM generate_series(1, 10000) AS n`

// tenThousandQueues are those of the tenant many, q-00001 and so on. It also has a thousand schedules like acme's hourly.
const tenThousandQueues = `
	INSERT INTO queues (tenant, name) SELECT 'many', 'q-' || lpad(n::text, 5, '0') FROM generate_series(1, 10000) AS n;
	INSERT INTO schedules
	SELECT (jsonb_populate_record(s, jsonb_build_object('tenant', 'many', 'name', 's-' || lpad(n::text, 4, '0'), 'id', gen_random_uuid()))).*
	FROM schedules AS s, generate_series(1, 1000) AS n WHERE s.tenant = 'acme' AND s.name = 'hourly'`

func insert(ctx context.Context, database, rows string) error {
	db, err := pgx.Connect(ctx, database)
	if err != nil {
		return err
	}
	defer db.Close(context.WithoutCancel(ctx))
	_, err = db.Exec(ctx, rows)
	return err
}
