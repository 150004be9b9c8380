package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"github.com/jackc/pgx/v5/pgxpool"

	messagev1 "plinth/api/plinth/message/v1"
	tenantv1 "plinth/api/plinth/tenant/v1"
	"plinth/bench/scratch"
	"plinth/internal/auth"
)

// What is promised while one tenant attacks: how long a neighbour's calls take at the 99th percentile, and the process's memory.
const (
	maxNeighbour  = 100 * time.Millisecond
	maxBesideHeap = 250 * time.Millisecond // beside attacks on memory, which make the garbage collector work
	maxMemory     = 512 << 20
	backWithin    = 30 * time.Second // until the memory is given back
	maxLeft       = 192 << 20        // afterwards
)

// pressure is a server of its own under attack by one tenant, while another calls it.
type pressure struct {
	url       string
	process   *exec.Cmd
	database  string
	neighbour messagev1.MessageServiceClient
	attacker  messagev1.MessageServiceClient
	key       string // the attacker's
	letters   int
	duration  time.Duration
}

// attack is what one tenant does until the context ends.
type attack struct {
	name    string
	most    time.Duration // promised of the neighbour's calls; 0 is a baseline
	callers int
	prepare func(ctx context.Context, p *pressure) error
	run     func(ctx context.Context, p *pressure, caller int)
}

func (b bench) pressure(ctx context.Context, out io.Writer) error {
	p := &pressure{letters: b.letters, duration: b.attacked}
	stop, err := p.start(ctx)
	defer stop()
	if err != nil {
		return err
	}
	var broken []error
	fmt.Fprintf(out, "\na neighbour's calls beside attacks of %v, and the memory of the process\n\n", p.duration)
	fmt.Fprintf(out, "%-18s %8s %9s %9s %9s %7s %9s %9s\n", "attack", "calls", "median", "p99", "longest", "failed", "peak MiB", "left MiB")
	for _, a := range attacks() {
		if a.prepare != nil {
			if err := a.prepare(ctx, p); err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
		}
		r, err := p.suffer(ctx, a)
		if err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
		n := len(r.calls)
		p99 := r.calls[n*99/100]
		fmt.Fprintf(out, "%-18s %8d %9s %9s %9s %7d %9d %9d\n", a.name, n, round(r.calls[n/2]), round(p99), round(r.calls[n-1]), r.failed, r.peak>>20, r.left>>20)
		if a.most > 0 && (p99 > a.most || r.failed > 0 || r.peak > maxMemory || r.left > maxLeft) {
			broken = append(broken, fmt.Errorf("%s: p99 %v, %d failed, %d MiB, then %d; promised are %v, 0, %d and %d",
				a.name, p99, r.failed, r.peak>>20, r.left>>20, a.most, maxMemory>>20, maxLeft>>20))
		}
	}
	if b.check {
		return errors.Join(broken...)
	}
	return nil
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// suffered is what became of the neighbour and of the process.
type suffered struct {
	calls      []time.Duration // sorted
	failed     int
	peak, left int64 // bytes
}

// suffer runs an attack, and makes the neighbour's calls meanwhile.
func (p *pressure) suffer(ctx context.Context, a attack) (r suffered, err error) {
	if err := os.WriteFile(p.proc("clear_refs"), []byte("5"), 0); err != nil { // The peak begins anew.
		return r, err
	}
	attacking, end := context.WithTimeout(ctx, p.duration)
	defer end()
	var callers sync.WaitGroup
	for i := range a.callers {
		callers.Go(func() { a.run(attacking, p, i) })
	}
	for attacking.Err() == nil {
		for _, call := range p.calls() {
			began := time.Now()
			if err := call(ctx); err != nil {
				r.failed++
			}
			r.calls = append(r.calls, time.Since(began))
		}
		<-time.After(5 * time.Millisecond)
	}
	callers.Wait()
	slices.Sort(r.calls)
	if r.peak, err = p.memory("VmHWM"); err != nil {
		return r, err
	}
	for began := time.Now(); ; <-time.After(time.Second) {
		if r.left, err = p.memory("VmRSS"); err != nil || r.left < maxLeft || time.Since(began) > backWithin {
			return r, err
		}
	}
}

// calls are those of the neighbour, in turn.
func (p *pressure) calls() []func(context.Context) error {
	return []func(context.Context) error{
		func(ctx context.Context) error {
			_, err := p.neighbour.Publish(ctx, &messagev1.PublishRequest{Queue: "mine", Payload: &messagev1.PublishRequest_Message{Message: "hello"}})
			return err
		},
		func(ctx context.Context) error {
			_, err := p.neighbour.GetQueue(ctx, &messagev1.GetQueueRequest{Name: "mine"})
			return err
		},
		func(ctx context.Context) error {
			_, err := p.neighbour.ListDeadLetters(ctx, &messagev1.ListDeadLettersRequest{Queue: "mine"})
			return err
		},
	}
}

func (p *pressure) proc(file string) string {
	return filepath.Join("/proc", strconv.Itoa(p.process.Process.Pid), file)
}

// memory returns a figure of the process, in bytes: VmRSS is what it has, VmHWM the most that it had.
func (p *pressure) memory(figure string) (int64, error) {
	status, err := os.ReadFile(p.proc("status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, figure+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no %s in the status of a process", figure)
}

// start makes a database, starts the server on it, and creates the tenants. stop ends and removes all of it.
func (p *pressure) start(ctx context.Context) (stop func(), err error) {
	folder, err := os.MkdirTemp("", "bench-pressure-")
	if err != nil {
		return func() {}, err
	}
	database, drop, err := scratch.Database(ctx)
	if err != nil {
		return func() { _ = os.RemoveAll(folder) }, err
	}
	p.database = database
	stop = func() {
		if p.process != nil && p.process.Process != nil {
			_ = p.process.Process.Signal(syscall.SIGTERM)
			_ = p.process.Wait()
		}
		if err := drop(); err != nil {
			fmt.Fprintln(os.Stderr, "the database is left behind:", err)
		}
		_ = os.RemoveAll(folder)
	}
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", folder, "plinth/cmd/server").CombinedOutput(); err != nil {
		return stop, fmt.Errorf("%w: %s", err, out)
	}
	admin := auth.NewKey()
	p.process = exec.Command(filepath.Join(folder, "server"))
	p.process.Env = append(os.Environ(), "HTTP_ADDR=127.0.0.1:0", "ADMIN_ADDR=", "AUTH_ADMIN_KEY="+admin, "LOG_LEVEL=info", "SHUTDOWN_TIMEOUT=5s",
		"DATABASE_URL="+database, "REDIS_URL="+redisURL(), "BROKER="+cmp.Or(os.Getenv("BROKER"), "postgres"))
	p.process.Stderr = os.Stderr
	lines, err := p.process.StdoutPipe()
	if err != nil {
		return stop, err
	}
	if err := p.process.Start(); err != nil {
		return stop, err
	}
	address := make(chan string, 1)
	go listen(lines, address)
	select {
	case a := <-address:
		p.url = "http://" + a
	case <-time.After(30 * time.Second):
		return stop, errors.New("the server does not start")
	}
	return stop, p.populate(ctx, admin)
}

// listen reads the log to its end, and sends the address that the server listens on.
func listen(log io.Reader, address chan<- string) {
	for lines := bufio.NewScanner(log); lines.Scan(); {
		var line struct{ Msg, Address string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" {
			address <- line.Address
		}
	}
}

// populate creates the tenants, their keys, and the neighbour's queue.
func (p *pressure) populate(ctx context.Context, admin string) error {
	bearer := func(key string) connect.ClientOption {
		return connect.WithInterceptors(connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
			return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
				req.Header().Set("Authorization", "Bearer "+key)
				return next(ctx, req)
			}
		}))
	}
	tenants := tenantv1.NewTenantServiceClient(&http.Client{}, p.url, bearer(admin))
	keys := map[string]string{}
	for _, name := range []string{"attacker", "neighbour"} {
		var err error
		for began := time.Now(); ; <-time.After(100 * time.Millisecond) {
			if _, err = tenants.CreateTenant(ctx, &tenantv1.CreateTenantRequest{Name: name}); err == nil || time.Since(began) > 30*time.Second {
				break
			}
		}
		if err != nil {
			return err
		}
		key, err := tenants.CreateApiKey(ctx, &tenantv1.CreateApiKeyRequest{Tenant: name, Scopes: []string{auth.All}})
		if err != nil {
			return err
		}
		keys[name] = key.GetKey()
	}
	client := func(key string) messagev1.MessageServiceClient {
		transport := &http.Transport{MaxIdleConnsPerHost: 100}
		return messagev1.NewMessageServiceClient(&http.Client{Transport: transport}, p.url, bearer(key))
	}
	p.key = keys["attacker"]
	p.attacker, p.neighbour = client(p.key), client(keys["neighbour"])
	_, err := p.neighbour.CreateQueue(ctx, &messagev1.CreateQueueRequest{Name: "mine"})
	return err
}

// fillDeadLetters gives the attacker a queue with many dead letters.
func fillDeadLetters(ctx context.Context, p *pressure) error {
	if _, err := p.attacker.CreateQueue(ctx, &messagev1.CreateQueueRequest{Name: "letters"}); err != nil {
		return err
	}
	db, err := pgxpool.New(ctx, p.database)
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.Exec(ctx, `INSERT INTO dead_letters
			(tenant, id, queue, message_id, reason, attempts, first_failed_at, last_failed_at, headers, attributes, body)
		SELECT 'attacker', gen_random_uuid(), 'letters', gen_random_uuid(), 'it failed for reason ' || n, 3, now(), now() - n * interval '1 second',
			'{}', '{}', 'hello' FROM generate_series(1, $1) AS n`, p.letters)
	if err == nil {
		_, err = db.Exec(ctx, `ANALYZE dead_letters`)
	}
	return err
}
