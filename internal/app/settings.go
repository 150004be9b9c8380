package app

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"plinth/internal/auth"
	"plinth/internal/kv"
	"plinth/internal/outbound"
	"plinth/internal/rpc"
	"plinth/internal/seal"
)

// Values of AUTH_MODE.
const (
	authRequired = "required"
	authOff      = "off"
)

// Broker kinds.
const (
	rabbitMQ       = "rabbitmq"
	postgresBroker = "postgres"
)

// minBodyMemory is how many MiB the largest message of one tenant needs.
const minBodyMemory = 32

// httpConfig configures the one port.
type httpConfig struct {
	Addr             string        `env:"HTTP_ADDR" envDefault:":8080" help:"address of the one port, host:port"`
	TLSCertFile      string        `env:"TLS_CERT_FILE" help:"certificate chain, PEM; with TLS_KEY_FILE the port speaks TLS"`
	TLSKeyFile       string        `env:"TLS_KEY_FILE" help:"private key of the certificate, PEM"`
	RequestTimeout   time.Duration `env:"HTTP_REQUEST_TIMEOUT" envDefault:"30s" help:"most time a call may take, streams excepted"`
	AllowedOrigins   []string      `env:"CORS_ALLOWED_ORIGINS" help:"origins whose pages may call from a browser, e.g. https://app.example.com,https://*.example.org; * is all, empty is none"`
	MaxCalls         int           `env:"HTTP_MAX_CALLS" envDefault:"2048" help:"most unary calls that are worked at, at a time; the limit adapts below it to what the service can do; 0 is no limit"`
	MaxStreams       int           `env:"HTTP_MAX_STREAMS" envDefault:"10000" help:"most streams that are open at a time; a tenant may have three times as many as stay free, and so it is with calls; 0 is no limit"`
	MaxPublicStreams int           `env:"HTTP_MAX_PUBLIC_STREAMS" envDefault:"1000" help:"most streams of public methods (health, reflection) that are open at a time; an address may have three times as many as stay free; 0 is no limit"`
	MaxBodyMemory    int64         `env:"HTTP_MAX_BODY_MEMORY" envDefault:"128" help:"MiB that request bodies may take at a time, three times their size; a tenant, or an address without one, may have as much as stays free; 0 is no limit"`
	MaxConnectionAge time.Duration `env:"HTTP_MAX_CONNECTION_AGE" envDefault:"30m" help:"age at which connections and streams are ended in good order, so that load balancers spread them, less a random tenth; 0 is never"`
}

func (c *httpConfig) Check(want want) {
	_, _, err := net.SplitHostPort(c.Addr)
	want(err == nil, "HTTP_ADDR", "is %q; it takes host:port, e.g. :8080 or 127.0.0.1:8080", c.Addr)
	want((c.TLSCertFile == "") == (c.TLSKeyFile == ""), "TLS_CERT_FILE", "and TLS_KEY_FILE go together: set both or none")
	want(c.RequestTimeout > 0, "HTTP_REQUEST_TIMEOUT", "must be more than 0")
	want(c.MaxCalls >= 0, "HTTP_MAX_CALLS", "must not be negative")
	want(c.MaxStreams >= 0, "HTTP_MAX_STREAMS", "must not be negative")
	want(c.MaxPublicStreams >= 0, "HTTP_MAX_PUBLIC_STREAMS", "must not be negative")
	want(c.MaxBodyMemory == 0 || c.MaxBodyMemory >= minBodyMemory, "HTTP_MAX_BODY_MEMORY", "must be at least %d, or 0", minBodyMemory)
	want(c.MaxConnectionAge >= 0, "HTTP_MAX_CONNECTION_AGE", "must not be negative")
	for _, origin := range c.AllowedOrigins {
		want(isOrigin(origin), "CORS_ALLOWED_ORIGINS", "has %q; it takes origins such as https://app.example.com, with at most one * in each", origin)
	}
}

// processConfig configures the process itself.
type processConfig struct {
	AdminAddr       string        `env:"ADMIN_ADDR" envDefault:"127.0.0.1:9090" help:"address of /metrics, /debug/state, /log/level and pprof, host:port, without authentication; set to nothing it is off"`
	ShutdownTimeout time.Duration `env:"SHUTDOWN_TIMEOUT" envDefault:"30s" help:"time to finish what is in hand after SIGTERM; the first tenth of it, at most 5s, new calls are still taken while load balancers notice"`
	WorkerInline    bool          `env:"WORKER_INLINE" envDefault:"false" help:"true: the server does the worker's part too"`
}

func (c *processConfig) Check(want want) {
	_, _, err := net.SplitHostPort(c.AdminAddr)
	want(c.AdminAddr == "" || err == nil, "ADMIN_ADDR", "is %q; it takes host:port, e.g. 127.0.0.1:9090, or nothing", c.AdminAddr)
	want(c.ShutdownTimeout > 0, "SHUTDOWN_TIMEOUT", "must be more than 0")
}

// authConfig configures who may call.
type authConfig struct {
	Mode        string `env:"MODE" envDefault:"required" help:"required: callers need an API key or a JWT; off: none, which cmd/dev alone may be, on a loopback address"`
	AdminKey    Secret `env:"ADMIN_KEY" help:"API key of an administrator beside those in the database, for the first one; cmd/server -new-key makes one"`
	JWTIssuer   string `env:"JWT_ISSUER" help:"OpenID Connect issuer whose JWTs are taken, e.g. https://id.example.com; empty takes none"`
	JWTAudience string `env:"JWT_AUDIENCE" help:"audience that the JWTs must be for; required with AUTH_JWT_ISSUER"`

	ConsoleClientID string `env:"CONSOLE_CLIENT_ID" help:"public client at AUTH_JWT_ISSUER by which people sign in to the console (code flow with PKCE, redirect URI such as https://plinth.example.com/); empty: by API keys alone"`
	ConsoleScopes   string `env:"CONSOLE_SCOPES" envDefault:"openid" help:"scopes that the console asks that client for, a blank between two, e.g. openid offline_access; openid must be one"`
}

func (c *authConfig) Check(want want) {
	wantOneOf(want, "MODE", c.Mode, authRequired, authOff)
	want(c.AdminKey == "" || auth.CheckKey(string(c.AdminKey)) == nil, "ADMIN_KEY", "is no API key; cmd/server -new-key makes one")
	wantURL(want, "JWT_ISSUER", Secret(c.JWTIssuer), "http", "https")
	want(!strings.Contains(c.JWTIssuer, "@") || hasStrayAt(c.JWTIssuer), "JWT_ISSUER", "has a user; it takes a URL such as https://id.example.com, which is no secret")
	want((c.JWTIssuer == "") == (c.JWTAudience == ""), "JWT_ISSUER", "and AUTH_JWT_AUDIENCE go together: set both or none")
	if c.ConsoleClientID == "" {
		return
	}
	want(c.JWTIssuer != "", "CONSOLE_CLIENT_ID", "is a client of AUTH_JWT_ISSUER: set that, too")
	want(c.JWTIssuer == "" || plainOrigin.MatchString(originOf(c.JWTIssuer)),
		"JWT_ISSUER", "must have a host of a-z, 0-9, dots and -, for AUTH_CONSOLE_CLIENT_ID, as in https://id.example.com")
	want(slices.Contains(strings.Fields(c.ConsoleScopes), "openid"), "CONSOLE_SCOPES", "is %q; it must have openid, as in openid offline_access", c.ConsoleScopes)
}

// plainOrigin matches the origins that a policy of a page can name.
var plainOrigin = regexp.MustCompile(`^https?://[a-z0-9.-]+(:[0-9]+)?$`)

// originOf returns the origin of a URL, as browsers write it, or nothing if that is no URL.
func originOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Scheme + "://" + u.Host)
}

// rateLimitConfig configures how often callers may call.
type rateLimitConfig struct {
	Tenant  auth.Rate `env:"TENANT" help:"most calls of a tenant that has no limit of its own, e.g. 1000/s, 5000/m or 10000/h; empty is no limit"`
	Key     auth.Rate `env:"KEY" help:"most calls of an API key, or subject of JWTs, that has no limit of its own"`
	Methods []string  `env:"METHODS" help:"most calls of a tenant to single methods, e.g. plinth.message.v1.MessageService/Publish=100/s,..."`
}

func (c *rateLimitConfig) Check(want want) {
	_, err := methodRates(c.Methods)
	want(err == nil, "METHODS", "%v", err)
}

// databaseConfig configures PostgreSQL.
type databaseConfig struct {
	URL       Secret `env:"URL,required" help:"PostgreSQL, e.g. postgres://user:password@host:5432/database; through a pooler without named statements, such as PgBouncer before 1.21, with ?default_query_exec_mode=cache_describe"`
	DirectURL Secret `env:"DIRECT_URL" help:"PostgreSQL past a pooler, for what listens and migrates; empty is DATABASE_URL"`
	MaxConns  int32  `env:"MAX_CONNS" envDefault:"16" help:"most connections for calls and handlers; docs/configuration.md says which a process has beside them"`
	Migrate   bool   `env:"MIGRATE" envDefault:"true" help:"true: migrate the schema at the start; false: wait until somebody has"`
}

func (c *databaseConfig) Check(want want) {
	wantURL(want, "URL", c.URL, "postgres", "postgresql")
	wantURL(want, "DIRECT_URL", c.DirectURL, "postgres", "postgresql")
	want(c.MaxConns >= 3, "MAX_CONNS", "must be at least 3")
}

// redisConfig configures Redis.
type redisConfig struct {
	URL Secret `env:"URL,required" help:"Redis, e.g. redis://user:password@host:6379/0, where 0 is the database; services that share a Redis take one each. A Cluster: redis://user:password@host1:6379,host2:6379, or one host with ?cluster=true. Sentinels: redis://host1:26379,host2:26379/0?master_name=name&username=user&password=password. TLS: rediss://"`
}

func (c *redisConfig) Check(want want) {
	if c.URL != "" {
		err := kv.CheckURL(string(c.URL))
		stray := hasStrayAt(string(c.URL))
		want(!stray, "URL", strayAt)
		want(stray || err == nil, "URL", "%v", err)
	}
}

// brokerConfig configures the broker.
type brokerConfig struct {
	Kind    string `env:"BROKER" envDefault:"rabbitmq" help:"what carries the messages: rabbitmq or postgres"`
	AMQPURL Secret `env:"AMQP_URL" help:"RabbitMQ, e.g. amqp://user:password@host:5672/vhost; required with BROKER=rabbitmq"`
}

func (c *brokerConfig) Check(want want) {
	wantOneOf(want, "BROKER", c.Kind, rabbitMQ, postgresBroker)
	want(c.Kind != rabbitMQ || c.AMQPURL != "", "AMQP_URL", "is required: %s", settingNamed("AMQP_URL").help)
	wantURL(want, "AMQP_URL", c.AMQPURL, "amqp", "amqps")
}

// s3Config configures the bucket of the files.
type s3Config struct {
	Endpoint        string `env:"S3_ENDPOINT" help:"URL of the S3 server; empty is AWS"`
	PublicEndpoint  string `env:"S3_PUBLIC_ENDPOINT" help:"URL of the S3 server as clients reach it, which the URLs for direct uploads and downloads are signed for; empty is S3_ENDPOINT"`
	Bucket          string `env:"S3_BUCKET" help:"bucket that holds the files; empty is no file storage"`
	ForcePathStyle  bool   `env:"S3_FORCE_PATH_STYLE" envDefault:"false" help:"true: bucket in the path and not in the host name, as most servers other than AWS want it"`
	Conditional     bool   `env:"S3_CONDITIONAL_WRITES" envDefault:"true" help:"true: an upload by URL is refused if its object exists; false is for servers that do not know If-None-Match in a PUT"`
	Region          string `env:"AWS_REGION" envDefault:"us-east-1" help:"region of the bucket"`
	AccessKeyID     string `env:"AWS_ACCESS_KEY_ID" help:"key for S3; without one the AWS SDK looks for a profile or a role"`
	SecretAccessKey Secret `env:"AWS_SECRET_ACCESS_KEY" help:"secret of the key"`
	SessionToken    Secret `env:"AWS_SESSION_TOKEN" help:"session token of a temporary key"`
}

func (c *s3Config) Check(want want) {
	wantURL(want, "S3_ENDPOINT", Secret(c.Endpoint), "http", "https")
	wantURL(want, "S3_PUBLIC_ENDPOINT", Secret(c.PublicEndpoint), "http", "https")
	want((c.AccessKeyID == "") == (c.SecretAccessKey == ""), "AWS_ACCESS_KEY_ID", "and AWS_SECRET_ACCESS_KEY go together: set both or none")
}

// outboundConfig says what calls to addresses that clients name may reach, and how.
type outboundConfig struct {
	AllowedNetworks []string      `env:"ALLOWED_NETWORKS" help:"networks that may be called although they are not public, e.g. 10.1.0.0/16,fd00:1::/32; empty is none"`
	Proxy           Secret        `env:"PROXY" help:"proxy that calls out go through, e.g. http://user:password@host:3128 or socks5://host:1080; it resolves names, so it has to refuse addresses; empty is none"`
	Timeout         time.Duration `env:"TIMEOUT" envDefault:"30s" help:"most time of an attempt of a call out; what asks for one may set less"`
}

func (c *outboundConfig) Check(want want) {
	_, err := outbound.ParseNetworks(c.AllowedNetworks)
	want(err == nil, "ALLOWED_NETWORKS", "%v", err)
	_, err = outbound.ParseProxy(string(c.Proxy))
	want(err == nil, "PROXY", "%v", err)
	want(c.Timeout > 0, "TIMEOUT", "must be more than 0")
}

// sealConfig says how secrets are kept in the database.
type sealConfig struct {
	Keys Secret `env:"SECRET_KEYS" help:"keys that secrets which clients give, such as those that webhooks are signed with, are encrypted with in the database: 32 bytes in Base64 each (openssl rand -base64 32), with commas between them; the first one encrypts, all decrypt, so put a new key first, and leave the old one out a day later; empty keeps secrets as they are"`
}

func (c *sealConfig) Check(want want) {
	_, err := seal.Parse(string(c.Keys))
	want(err == nil, "SECRET_KEYS", "%v; it takes keys of 32 bytes in Base64, with commas between them", err)
}

// logConfig configures the log.
type logConfig struct {
	Level          string        `env:"LEVEL" envDefault:"info" help:"debug, info, warn or error"`
	Format         string        `env:"FORMAT" envDefault:"json" help:"json or console"`
	File           string        `env:"FILE" help:"file to log to; empty is standard output"`
	FileMaxSize    int           `env:"FILE_MAX_SIZE" envDefault:"100" help:"MiB after which the file is rotated"`
	FileMaxBackups int           `env:"FILE_MAX_BACKUPS" envDefault:"10" help:"rotated files that are kept; 0 keeps all"`
	SlowSQL        time.Duration `env:"SLOW_SQL" envDefault:"1s" help:"statements that take at least this long are logged as warnings, without their values; 0 is none"`
	FileMaxAge     int           `env:"FILE_MAX_AGE" envDefault:"30" help:"days that rotated files are kept; 0 is for ever"`
}

func (c *logConfig) Check(want want) {
	wantOneOf(want, "LEVEL", c.Level, "debug", "info", "warn", "error")
	wantOneOf(want, "FORMAT", c.Format, "json", "console")
	want(c.FileMaxSize > 0, "FILE_MAX_SIZE", "must be at least 1")
	want(c.FileMaxBackups >= 0, "FILE_MAX_BACKUPS", "must not be negative")
	want(c.SlowSQL >= 0, "SLOW_SQL", "must not be negative")
	want(c.FileMaxAge >= 0, "FILE_MAX_AGE", "must not be negative")
}

func wantOneOf(want want, setting, value string, allowed ...string) {
	want(slices.Contains(allowed, value), setting, "is %q; it takes %s", value, strings.Join(allowed, ", "))
}

// wantURL checks a URL. Its message does not repeat the value, which may hold a password.
func wantURL(want want, setting string, value Secret, schemes ...string) {
	u, err := url.Parse(string(value))
	stray := hasStrayAt(string(value))
	want(!stray, setting, strayAt)
	want(stray || value == "" || err == nil && slices.Contains(schemes, u.Scheme),
		setting, "is not a URL that begins with %s://", strings.Join(schemes, ":// or "))
}

const strayAt = "has an @ that is not the one before its host: in a user, a password or a parameter, @ / ? and # are written %%40 %%2F %%3F and %%23"

// hasStrayAt reports whether a URL has an @ beside the one before its host. Then a part of a password may be taken for a
// host, which errors and logs show.
func hasStrayAt(text string) bool {
	_, rest, _ := strings.Cut(text, "://")
	before, after, _ := strings.Cut(rest, "@")
	return strings.ContainsAny(before, "/?#") && after != "" || strings.Contains(after, "@")
}

// methodRates parses RATE_LIMIT_METHODS. It returns the rates by the paths of their methods.
func methodRates(settings []string) (map[string]auth.Rate, error) {
	rates := map[string]auth.Rate{}
	for _, s := range settings {
		name, text, _ := strings.Cut(s, "=")
		rate, err := auth.ParseRate(text)
		if err != nil || !rate.IsLimit() || !rpc.IsMethod("/"+name) {
			return nil, fmt.Errorf("has %q; it takes a method and its rate, such as plinth.message.v1.MessageService/Publish=100/s", s)
		}
		rates["/"+name] = rate
	}
	return rates, nil
}

// isLoopback reports whether an address can only be reached from this machine.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// isOrigin reports whether s is an origin as browsers write it, with at most one "*".
func isOrigin(s string) bool {
	if s == "*" {
		return true
	}
	u, err := url.Parse(strings.Replace(s, "*", "0", 1)) // A digit is allowed in both a name and a port.
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && s == strings.ToLower(s) &&
		u.Scheme+"://"+u.Host == strings.Replace(s, "*", "0", 1) && !strings.Contains(u.Host, "*")
}
