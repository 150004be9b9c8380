package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	metricsv1 "go.opentelemetry.io/proto/otlp/metrics/v1"

	"plinth/internal/auth"
	"plinth/internal/blob/blobtest"
	"plinth/internal/observe/observetest"
)

// canaries plants secrets and payloads in every kind of request and of setting, has most of it fail in every way, and searches all
// spans, metrics, lines of logs and pages of ADMIN_ADDR for them. Errors repeat no secret, and no payload but that of their own request.
// After all of that, the processes have the metrics that dashboards and rules name.
func canaries(t *testing.T, broker string) {
	a := newAviary(t, broker)
	a.credentials()
	a.messages()
	a.schedules()
	a.files()
	a.values()
	a.faults()
	if broker == "postgres" { // They are the same with the other one, and the wait is long.
		checkFigures(t, a.server.admin(t), a.worker.admin(t))
	}
	for _, p := range []*process{a.server, a.worker} {
		admin := p.admin(t)
		for _, path := range []string{"/metrics", "/debug/state", "/debug/traces", "/log/level"} {
			res, err := http.Get(admin + path)
			if err != nil {
				t.Fatal(err)
			}
			page, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if res.StatusCode != http.StatusOK || len(page) == 0 {
				t.Errorf("%s%s: %s", p.name, path, res.Status)
			}
			a.search(p.name+path, string(page))
		}
		p.stop(t) // Which exports the last spans.
		lines, _ := p.log.from(0)
		for _, line := range lines {
			a.search("a line of "+p.name, line)
		}
	}
	spans := a.collector.Await(t, "spans of all kinds", func(all []observetest.Span) bool {
		return len(observetest.Named(all, "process secretive")) > 0 && len(observetest.Named(all, "run")) > 0 &&
			len(observetest.Named(all, "PutObject")) > 0 && len(observetest.Named(all, "POST")) > 1
	})
	a.collector.AwaitMetric(t, "plinth_calls_total", func(*metricsv1.Metric) bool { return true })
	a.search(fmt.Sprintf("one of %d spans, or a metric,", len(spans)), string(a.collector.Raw()))
}

// canary is a text that must not be seen.
type canary struct {
	what, text string
	payload    bool // an error may repeat it to who sent it
}

// aviary is a system with canaries in its settings.
type aviary struct {
	*testing.T
	env            map[string]string
	server, worker *process
	url, endpoint  string
	collector      *observetest.Collector
	bucket         *blobtest.Server
	issuer         *issuer
	database       *proxy
	broker         *proxy // nil if it is in PostgreSQL
	canaries       []canary
}

func newAviary(t *testing.T, broker string) *aviary {
	a := &aviary{T: t, collector: observetest.New(t), bucket: blobtest.New(t), issuer: newIssuer(t)}
	env := with(backends(t, broker), a.bucket.Env())
	a.add("key of the administrator", adminKey)
	a.add("secret of the bucket", env["AWS_SECRET_ACCESS_KEY"])
	u, err := url.Parse(env["DATABASE_URL"])
	if err != nil {
		t.Fatal(err)
	}
	if password, has := u.User.Password(); has {
		a.add("password of the database", password)
	} else { // The server asks for none.
		u.User = url.UserPassword(u.User.Username(), a.secret("password of the database"))
	}
	a.database, env["DATABASE_URL"] = newProxy(t, u.String())
	a.database.open()
	if env["AMQP_URL"] != "" {
		a.broker, env["AMQP_URL"] = newProxy(t, env["AMQP_URL"])
		a.broker.open()
	}
	keys := make([]byte, 32)
	_, _ = rand.Read(keys)
	env["SECRET_KEYS"] = base64.StdEncoding.EncodeToString(keys)
	a.add("key of the secrets", env["SECRET_KEYS"])
	a.env = with(env, map[string]string{
		"ADMIN_ADDR": "127.0.0.1:0", "LOG_LEVEL": "debug", "OUTBOUND_ALLOWED_NETWORKS": "127.0.0.0/8",
		"AUTH_JWT_ISSUER": a.issuer.URL, "AUTH_JWT_AUDIENCE": "plinth",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": a.collector.URL, "OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": a.collector.MetricsURL,
		"OTEL_EXPORTER_OTLP_HEADERS": "authorization=" + a.secret("header of exports"),
	})
	answer := a.payload("answer of an endpoint")
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Answer", answer)
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(endpoint.Close)
	a.endpoint = endpoint.URL
	if broker == "rabbitmq" { // There calls out go through a proxy, which answers for the endpoint.
		a.env["OUTBOUND_PROXY"] = strings.Replace(endpoint.URL, "://", "://user:"+a.secret("password of the proxy")+"@", 1)
		a.endpoint = "http://endpoint.example.com"
	}
	a.server, a.worker = start(t, "server", a.env), start(t, "worker", a.env)
	a.url = "http://" + a.server.address(t)
	ready(t, a.url)
	return a
}

// secret returns a new secret, and payload a new payload.
func (a *aviary) secret(what string) string {
	text := "Canary" + rand.Text()
	a.add(what, text)
	return text
}

func (a *aviary) payload(what string) string {
	text := "Canary" + rand.Text()
	a.canaries = append(a.canaries, canary{what, text, true})
	return text
}

// add takes a secret that somebody else made.
func (a *aviary) add(what, text string) {
	if len(text) < 8 {
		a.Fatalf("%s: %q is too short to be found", what, text)
	}
	a.canaries = append(a.canaries, canary{what, text, false})
}

// search fails the test if a text has a canary, as it is or in Base64. own is the request that the text is a reply to.
func (a *aviary) search(where, text string, own ...string) {
	a.Helper()
	request := strings.Join(own, "\n")
	for _, c := range a.canaries {
		forms := forms(c.text)
		if c.payload && slices.ContainsFunc(forms, func(form string) bool { return strings.Contains(request, form) }) {
			continue
		}
		for _, form := range forms {
			if at := strings.Index(text, form); at >= 0 {
				a.Errorf("%s has the %s: %q", where, c.what, text[max(0, at-200):min(len(text), at+100)])
			}
		}
	}
}

// forms returns a text and how Base64 writes it, wherever it begins.
func forms(text string) []string {
	all := []string{text, url.QueryEscape(text)}
	for before := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString([]byte(strings.Repeat("x", before) + text))
		all = append(all, encoded[4:len(encoded)-2])
	}
	return all
}

// ask makes a request. It searches the reply if that is an error, and returns it.
func (a *aviary) ask(method, path, body string, headers ...string) (status int, reply string) {
	a.Helper()
	req, err := http.NewRequestWithContext(a.Context(), method, a.url+path, strings.NewReader(body))
	if err != nil {
		a.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+adminKey)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	if req.Header.Get("Authorization") == "" {
		req.Header.Del("Authorization")
	}
	client := http.Client{Timeout: patience} // A stream may be what comes.
	res, err := client.Do(req)
	if err != nil {
		a.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, _ := io.ReadAll(res.Body)
	if reply = string(text); res.StatusCode >= 400 || res.Header.Get("Grpc-Status") != "" {
		own := append([]string{path, body}, headers...)
		a.search(fmt.Sprintf("the error of %s %.40s", method, path), fmt.Sprint(res.Header, reply), own...)
	}
	return res.StatusCode, reply
}

// good and bad make a request that has to succeed, or to fail.
func (a *aviary) good(method, path, body string, headers ...string) (reply string) {
	a.Helper()
	status, reply := a.ask(method, path, body, headers...)
	if status >= 300 {
		a.Fatalf("%s %s: %d %s", method, path, status, reply)
	}
	return reply
}

func (a *aviary) bad(method, path, body string, headers ...string) {
	a.Helper()
	if status, reply := a.ask(method, path, body, headers...); status < 400 {
		a.Errorf("%s %s: %d %s", method, path, status, reply)
	}
}

// value returns a text of a reply in JSON, by the keys that lead there.
func (a *aviary) value(reply string, keys ...string) string {
	a.Helper()
	var node any
	if err := json.Unmarshal([]byte(reply), &node); err != nil {
		a.Fatal(err)
	}
	for _, key := range keys {
		object, _ := node.(map[string]any)
		node = object[key]
	}
	text, is := node.(string)
	if !is {
		a.Fatalf("%v is not in %s", keys, reply)
	}
	return text
}

// credentials are keys and tokens, good and bad, in every place.
func (a *aviary) credentials() {
	a.good("POST", "/api/v1/tenants", `{"name": "acme"}`)
	made := a.good("POST", "/api/v1/api-keys", `{"tenant": "acme", "scopes": ["queues.read"]}`)
	key, now := a.value(made, "key"), time.Now().Unix()
	token := a.issuer.sign(jwt.MapClaims{"iss": a.issuer.URL, "sub": "ada", "aud": "plinth", "tenant": "acme", "scope": "queues.read", "exp": now + 60})
	old := a.issuer.sign(jwt.MapClaims{"iss": a.issuer.URL, "sub": "ada", "aud": "plinth", "tenant": "acme", "exp": now - 3600})
	foreign := a.issuer.sign(jwt.MapClaims{"iss": a.issuer.URL, "sub": "ada", "aud": "another", "tenant": "acme", "exp": now + 60})
	unknown := auth.NewKey()
	for what, text := range map[string]string{"key": key, "unknown key": unknown, "token": token, "old token": old, "token for another": foreign} {
		a.add(what, text)
		if parts := strings.Split(text, "."); len(parts) == 3 {
			a.add("signature of a "+what, parts[2])
		}
	}
	a.good("GET", "/api/v1/queues", "", "Authorization", "Bearer "+key)
	a.good("GET", "/api/v1/queues", "", "Authorization", "Bearer "+token)
	a.bad("POST", "/api/v1/queues", `{"name": "forbidden"}`, "Authorization", "Bearer "+key)
	for _, wrong := range []string{"Bearer " + unknown, "Bearer " + old, "Bearer " + foreign, "Bearer " + token + "x", "Basic " + a.secret("password"), a.secret("header")} {
		a.bad("GET", "/api/v1/queues", "", "Authorization", wrong)
		a.bad("POST", "/plinth.message.v1.MessageService/ListQueues", "{}", "Authorization", wrong)
		a.bad("GET", "/api/v1/channels:subscribe?channel=a", "", "Authorization", wrong)
	}
	a.ask("GET", "/api/v1/queues?key="+unknown+"&access_token="+token, "", "Cookie", "session="+a.secret("cookie"))
	a.bad("GET", "/api/v1/nothing?token="+a.secret("token of a path that is not there"), "")
	a.good("DELETE", "/api/v1/api-keys/"+a.value(made, "apiKey", "id"), "")
	a.bad("GET", "/api/v1/queues", "", "Authorization", "Bearer "+key)
}

// enveloped returns a message as it is sent of gRPC and gRPC-Web.
func enveloped(body string) string {
	var b bytes.Buffer
	b.Write([]byte{0, 0, 0, 0, byte(len(body))})
	b.WriteString(body)
	return b.String()
}

// messages are published, refused, pulled and pushed in vain.
func (a *aviary) messages() {
	const publish = "/plinth.message.v1.MessageService/Publish"
	hook := a.endpoint + "/hook?token=" + a.secret("token of a push's URL")
	secret := "whsec_" + base64.StdEncoding.EncodeToString([]byte(a.secret("secret of a push")))
	a.add("secret of a push, as it is written", secret)
	push := fmt.Sprintf(`"push": {"url": %q, "secret": %q, "headers": {"authorization": "Bearer %s"}}`, hook, secret, a.secret("header of a push"))
	a.good("POST", "/api/v1/queues", `{"name": "secretive", `+push+`}`)
	a.good("POST", "/api/v1/queues", `{"name": "pulled", "max_attempts": 1}`)
	for _, body := range []string{`{"queue": "secretive", "message": "%s"}`, `{"queue": "secretive", "message": "x", "attributes": {"note": "%s"}}`,
		`{"queue": "pulled", "message": "x", "idempotency_key": "%s", "delay": "3600s"}`} {
		a.good("POST", "/api/v1/message", fmt.Sprintf(body, a.payload("payload")))
	}
	a.good("POST", publish, `{"queue": "pulled", "data": "`+base64.StdEncoding.EncodeToString([]byte(a.payload("bytes")))+`"}`)
	key := a.payload("key of an idempotent message")
	for _, path := range []string{"/api/v1/message", publish} {
		a.ask("POST", path, `{"queue": "pulled", "message": "`+a.payload("payload, again")+`", "idempotency_key": "`+key+`"}`)
		for _, wrong := range []string{
			`{"queue": "nowhere", "message": "%s"}`, `{"queue": "pulled", "message": %s}`, `{"queue": "pulled", "message": ["%s"]}`,
			`{"queue": "pulled", "data": "%s!"}`, `{"queue": "pulled", "message": "%s", "delay": "x"}`, `{"queue": "%s ", "message": "x"}`,
			`{"queue": "pulled", "message": "%s"`, "\"%s", `{"queue": "pulled", "attributes": {"a": 1, "%s": 2}}`,
		} {
			a.bad("POST", path, fmt.Sprintf(wrong, a.payload("payload of what is refused")))
		}
	}
	for _, kind := range []string{"application/grpc+json", "application/grpc-web+json"} {
		for _, wrong := range []string{`{"queue": "nowhere", "message": "%s"}`, `{"queue": "pulled", "message": %s}`, `{"queue": "pulled", "data": "%s!"}`} {
			a.ask("POST", publish, enveloped(fmt.Sprintf(wrong, a.payload("payload over "+kind))), "Content-Type", kind, "TE", "trailers")
		}
	}
	a.good("POST", "/api/v1/messages:batch", `{"messages": [{"queue": "nowhere", "message": "`+a.payload("payload of a batch")+`"}]}`)
	pulled := a.good("POST", "/api/v1/queues/pulled/messages:pull", `{"max_messages": 10, "wait": "5s"}`)
	var got struct{ Messages []struct{ Receipt string } }
	if err := json.Unmarshal([]byte(pulled), &got); err != nil || len(got.Messages) == 0 {
		a.Fatal(pulled, err)
	}
	a.add("receipt", got.Messages[0].Receipt)
	for _, what := range []string{"ack", "ack", "nack", "extend"} {
		a.good("POST", "/api/v1/queues/pulled/messages:"+what, `{"receipts": ["`+got.Messages[0].Receipt+`", "`+a.secret("receipt that is none")+`"]}`)
	}
	for _, wrong := range []string{"https://user:" + a.secret("password of a push's URL") + "@example.com/", "http://10.0.0.1/?" + a.secret("query of a push's URL")} {
		a.bad("POST", "/api/v1/queues", fmt.Sprintf(`{"name": "refused", "push": {"url": %q}}`, wrong))
	}
	a.bad("POST", "/api/v1/queues", `{"name": "refused", "push": {"url": "https://example.com/", "secret": "`+a.secret("secret that is none")+`"}}`)
	eventually(a, "pushes fail", func() bool {
		return strings.Contains(a.good("GET", "/api/v1/queues/secretive", ""), `"deadLetters":"2"`)
	})
}
