package e2e

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	messagev1 "plinth/api/plinth/message/v1"
	"plinth/internal/blob/blobtest"
	"plinth/internal/porttest"
)

// Behind a PgBouncer in transaction mode the service works as it does without: only what goes past the pooler needs a
// connection of its own.
func TestBehindAPooler(t *testing.T) {
	t.Parallel()
	env := with(backends(t, "postgres"), blobtest.New(t).Env())
	pooler := startPooler(t, env["DATABASE_URL"])
	env["DATABASE_URL"], env["DATABASE_DIRECT_URL"] = pooler.url+"&default_query_exec_mode=cache_describe", env["DATABASE_URL"]
	sys := startSystem(t, env)
	t.Run("wake-ups", func(t *testing.T) { wakesAtOnce(t, sys) })
	if ci() {
		t.Run("clients", func(t *testing.T) { clients(t, sys) })
	} else {
		t.Run("scripts", func(t *testing.T) { scripts(t, sys) })
	}
	if n := pooler.transactions(t); n < 500 {
		t.Errorf("%d transactions went through the pooler, want 500 at least", n)
	}
}

// wakesAtOnce tests that notifications arrive. Without them a message is only found by a poll every two seconds.
func wakesAtOnce(t *testing.T, sys *system) {
	client := grpcClient(t, sys.url)
	newQueue(t, client, "wakes")
	c := consume(t, client, &messagev1.Subscribe{Queue: "wakes"})
	defer c.end(t)
	begin := time.Now()
	const messages = 20
	for range messages {
		publish(t, client, "wakes", "wake up")
		c.ack(t, c.next(t).GetId())
	}
	if took := time.Since(begin); took > messages*time.Second/5 {
		t.Errorf("%d messages, one after the other, took %v: nobody is woken by notifications", messages, took)
	}
}

// pooler is a PgBouncer that runs for a test.
type pooler struct {
	url     string // of the database, through it
	console string // of its own statistics
}

// startPooler starts a PgBouncer in transaction mode in front of a database. It has fewer connections to that than its
// clients have to it.
func startPooler(t testing.TB, database string) *pooler {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			missing(t, "pgbouncer is not installed; Debian and Ubuntu: apt-get install pgbouncer")
		}
	}
	config, err := pgx.ParseConfig(database)
	if err != nil {
		t.Fatal(err)
	}
	port := porttest.Free(t)
	// Everybody may connect, as the user of the database's URL.
	dir, err := os.MkdirTemp("", "plinth-pgbouncer-") // Other users may not enter t.TempDir.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ini := filepath.Join(dir, "pgbouncer.ini")
	target := fmt.Sprintf("host=%s port=%d user=%s", config.Host, config.Port, config.User)
	if config.Password != "" {
		target += " password='" + strings.ReplaceAll(config.Password, "'", "''") + "'"
	}
	content := fmt.Sprintf(`[databases]
%s = %s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_client_conn = 200
default_pool_size = 8
`, config.Database, target, port)
	if err := os.WriteFile(ini, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, ini)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: unprivileged(t, dir, ini)}
	launch(t, "pgbouncer", cmd).says(t, "process up")

	through := &url.URL{
		Scheme: "postgres", User: url.User("plinth"), Host: net.JoinHostPort("127.0.0.1", port), Path: config.Database, RawQuery: "sslmode=disable",
	}
	console := *through
	console.Path, console.RawQuery = "pgbouncer", "sslmode=disable&default_query_exec_mode=simple_protocol"
	return &pooler{through.String(), console.String()}
}

// unprivileged returns the user that PgBouncer runs as, since it refuses to run as root, and makes it the owner of the
// files. nil means our own user.
func unprivileged(t testing.TB, files ...string) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, errUID := strconv.ParseUint(nobody.Uid, 10, 32)
	gid, errGID := strconv.ParseUint(nobody.Gid, 10, 32)
	if errUID != nil || errGID != nil {
		t.Fatalf("the user nobody has the ids %s and %s", nobody.Uid, nobody.Gid)
	}
	for _, file := range files {
		if err := os.Chown(file, int(uid), int(gid)); err != nil {
			t.Fatal(err)
		}
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// transactions returns how many transactions the pooler has passed on.
func (p *pooler) transactions(t testing.TB) (n int64) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), p.console)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(t.Context()) }()
	rows, err := conn.Query(t.Context(), "SHOW TOTALS")
	if err != nil {
		t.Fatal(err)
	}
	totals, err := pgx.CollectRows(rows, pgx.RowToMap)
	if err != nil {
		t.Fatal(err)
	}
	for _, total := range totals {
		if total["name"] == "total_xact_count" {
			count, err := total["value"].(pgtype.Numeric).Int64Value()
			if err != nil {
				t.Fatal(err)
			}
			n = count.Int64
		}
	}
	return n
}
