package app

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"plinth/internal/auth"
	"plinth/internal/kv"
	"plinth/internal/rpc"
)

// Role is what a process does.
type Role string

// The roles. A server with WORKER_INLINE=true does the worker's part too; cmd/dev is a server that may do without
// authentication.
const (
	Server Role = "server"
	Worker Role = "worker"
	Dev    Role = "dev"
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

// Config is everything that can be set from outside. Its tags are the documentation: `-help` and docs/configuration.md
// are made from them.
type Config struct {
	Role Role

	HTTPAddr           string        `env:"HTTP_ADDR" envDefault:":8080" help:"address of the one port, host:port"`
	TLSCertFile        string        `env:"TLS_CERT_FILE" help:"certificate chain, PEM; with TLS_KEY_FILE the port speaks TLS"`
	TLSKeyFile         string        `env:"TLS_KEY_FILE" help:"private key of the certificate, PEM"`
	RequestTimeout     time.Duration `env:"HTTP_REQUEST_TIMEOUT" envDefault:"30s" help:"most time a call may take, streams excepted"`
	CORSAllowedOrigins []string      `env:"CORS_ALLOWED_ORIGINS" help:"origins whose pages may call from a browser, e.g. https://app.example.com,https://*.example.org; * is all, empty is none"`
	MaxCalls           int           `env:"HTTP_MAX_CALLS" envDefault:"2048" help:"most unary calls that are worked at, at a time; the limit adapts below it to what the service can do; 0 is no limit"`
	MaxStreams         int           `env:"HTTP_MAX_STREAMS" envDefault:"10000" help:"most streams that are open at a time; 0 is no limit"`
	MaxConnectionAge   time.Duration `env:"HTTP_MAX_CONNECTION_AGE" envDefault:"30m" help:"age at which connections and streams are ended in good order, so that load balancers spread them, less a random tenth; 0 is never"`
	AdminAddr          string        `env:"ADMIN_ADDR" envDefault:"127.0.0.1:9090" help:"address of /metrics and pprof, host:port; set to nothing it is off"`
	ShutdownTimeout    time.Duration `env:"SHUTDOWN_TIMEOUT" envDefault:"30s" help:"time to finish what is in hand after SIGTERM; the first tenth of it, at most 5s, new calls are still taken while load balancers notice"`
	WorkerInline       bool          `env:"WORKER_INLINE" envDefault:"false" help:"true: the server does the worker's part too"`

	AuthMode        string `env:"AUTH_MODE" envDefault:"required" help:"required: callers need an API key or a JWT; off: none, which cmd/dev alone may be, on a loopback address"`
	AuthAdminKey    Secret `env:"AUTH_ADMIN_KEY" help:"API key of an administrator beside those in the database, for the first one; cmd/server -new-key makes one"`
	AuthJWTIssuer   string `env:"AUTH_JWT_ISSUER" help:"OpenID Connect issuer whose JWTs are taken, e.g. https://id.example.com; empty takes none"`
	AuthJWTAudience string `env:"AUTH_JWT_AUDIENCE" help:"audience that the JWTs must be for; required with AUTH_JWT_ISSUER"`

	RateLimitTenant  auth.Rate `env:"RATE_LIMIT_TENANT" help:"most calls of a tenant that has no limit of its own, e.g. 1000/s, 5000/m or 10000/h; empty is no limit"`
	RateLimitKey     auth.Rate `env:"RATE_LIMIT_KEY" help:"most calls of an API key, or subject of JWTs, that has no limit of its own"`
	RateLimitMethods []string  `env:"RATE_LIMIT_METHODS" help:"most calls of a tenant to single methods, e.g. plinth.message.v1.MessageService/Publish=100/s,..."`

	DatabaseURL       Secret `env:"DATABASE_URL,required" help:"PostgreSQL, e.g. postgres://user:password@host:5432/database"`
	DatabaseDirectURL Secret `env:"DATABASE_DIRECT_URL" help:"PostgreSQL past a pooler, for what listens and migrates; empty is DATABASE_URL"`
	DatabaseMaxConns  int32  `env:"DATABASE_MAX_CONNS" envDefault:"16" help:"most connections for calls and handlers; docs/configuration.md says which a process has beside them"`
	DatabaseMigrate   bool   `env:"DATABASE_MIGRATE" envDefault:"true" help:"true: migrate the schema at the start; false: wait until somebody has"`

	RedisURL Secret `env:"REDIS_URL,required" help:"Redis, e.g. redis://user:password@host:6379/0, where 0 is the database; services that share a Redis take one each. A Cluster: redis://user:password@host1:6379,host2:6379, or one host with ?cluster=true. Sentinels: redis://host1:26379,host2:26379/0?master_name=name&username=user&password=password. TLS: rediss://"`

	Broker  string `env:"BROKER" envDefault:"rabbitmq" help:"what carries the messages: rabbitmq or postgres"`
	AMQPURL Secret `env:"AMQP_URL" help:"RabbitMQ, e.g. amqp://user:password@host:5672/vhost; required with BROKER=rabbitmq"`

	S3Endpoint         string `env:"S3_ENDPOINT" help:"URL of the S3 server; empty is AWS"`
	S3Bucket           string `env:"S3_BUCKET" help:"bucket that holds the files; empty is no file storage"`
	S3ForcePathStyle   bool   `env:"S3_FORCE_PATH_STYLE" envDefault:"false" help:"true: bucket in the path and not in the host name, as most servers other than AWS want it"`
	AWSRegion          string `env:"AWS_REGION" envDefault:"us-east-1" help:"region of the bucket"`
	AWSAccessKeyID     string `env:"AWS_ACCESS_KEY_ID" help:"key for S3; without one the AWS SDK looks for a profile or a role"`
	AWSSecretAccessKey Secret `env:"AWS_SECRET_ACCESS_KEY" help:"secret of the key"`
	AWSSessionToken    Secret `env:"AWS_SESSION_TOKEN" help:"session token of a temporary key"`

	LogLevel          string `env:"LOG_LEVEL" envDefault:"info" help:"debug, info, warn or error"`
	LogFormat         string `env:"LOG_FORMAT" envDefault:"json" help:"json or console"`
	LogFile           string `env:"LOG_FILE" help:"file to log to; empty is standard output"`
	LogFileMaxSize    int    `env:"LOG_FILE_MAX_SIZE" envDefault:"100" help:"MiB after which the file is rotated"`
	LogFileMaxBackups int    `env:"LOG_FILE_MAX_BACKUPS" envDefault:"10" help:"rotated files that are kept; 0 keeps all"`
	LogFileMaxAge     int    `env:"LOG_FILE_MAX_AGE" envDefault:"30" help:"days that rotated files are kept; 0 is for ever"`

	MessageAutoCreateQueues bool  `env:"MESSAGE_AUTO_CREATE_QUEUES" envDefault:"false" help:"true: publishing to an unknown queue creates it; for development"`
	MessageMaxQueues        int64 `env:"MESSAGE_MAX_QUEUES" envDefault:"1000" help:"most queues of a tenant that has no quota of its own; 0 is no limit"`
	MessageMaxWaiting       int64 `env:"MESSAGE_MAX_WAITING" envDefault:"1000000" help:"most messages of a tenant that wait for their time, likewise; roughly, several processes may pass it for a moment"`
	MessageMaxPerSecond     int64 `env:"MESSAGE_MAX_PER_SECOND" envDefault:"0" help:"most messages that a tenant publishes in a second, likewise"`
}

// Secret is a value that is never shown.
type Secret string

func (Secret) String() string   { return "[redacted]" }
func (Secret) GoString() string { return "[redacted]" }

// ConfigError names every setting that is missing or wrong.
type ConfigError struct{ Problems []string }

func (e *ConfigError) Error() string {
	return fmt.Sprintf("%d settings are missing or wrong:\n  %s\n-help prints all settings", len(e.Problems), strings.Join(e.Problems, "\n  "))
}

// Environ is the process's environment. It is read here and nowhere else.
func Environ() map[string]string { return env.ToMap(os.Environ()) }

// ParseConfig makes the configuration of a role from an environment. Empty values count as not set. The error is a
// *ConfigError.
func ParseConfig(role Role, environ map[string]string) (Config, error) {
	set := map[string]string{}
	for key, value := range environ {
		if value != "" {
			set[key] = value
		}
	}
	cfg := Config{Role: role}
	var problems []string
	if err := env.ParseWithOptions(&cfg, env.Options{Environment: set}); err != nil {
		problems = parseProblems(err, set)
	}
	if value, named := environ["ADMIN_ADDR"]; named && value == "" { // The parser takes that for not set.
		cfg.AdminAddr = ""
	}
	problems = append(problems, cfg.problems(problems)...)
	if len(problems) > 0 {
		slices.Sort(problems)
		return cfg, &ConfigError{problems}
	}
	return cfg, nil
}

// parseProblems says in our words what the parser found.
func parseProblems(err error, set map[string]string) (problems []string) {
	var all env.AggregateError
	if !errors.As(err, &all) {
		return []string{err.Error()}
	}
	for _, err := range all.Errors {
		var missing env.VarIsNotSetError
		var wrong env.ParseError
		switch {
		case errors.As(err, &missing):
			problems = append(problems, missing.Key+" is required: "+setting(missing.Key).help)
		case errors.As(err, &wrong):
			field, _ := reflect.TypeFor[Config]().FieldByName(wrong.Name)
			name := settingOf(field).name
			problems = append(problems, fmt.Sprintf("%s is %q; it takes %s", name, set[name], kindName(field.Type)))
		default:
			problems = append(problems, err.Error())
		}
	}
	return problems
}

func kindName(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "a duration such as 30s or 5m"
	case t == reflect.TypeFor[auth.Rate]():
		return "a number and the time, such as 100/s, 5000/m or 1000/h"
	case t.Kind() == reflect.Bool:
		return "true or false"
	default:
		return "a whole number"
	}
}

// problems are the rules that no parser knows. Settings that the parser complained of already are left out.
func (c *Config) problems(parsed []string) (problems []string) {
	check := func(ok bool, name, format string, args ...any) {
		known := slices.ContainsFunc(parsed, func(p string) bool { return strings.HasPrefix(p, name+" ") })
		if !ok && !known {
			problems = append(problems, name+" "+fmt.Sprintf(format, args...))
		}
	}
	oneOf := func(name, value string, allowed ...string) {
		check(slices.Contains(allowed, value), name, "is %q; it takes %s", value, strings.Join(allowed, ", "))
	}
	isURL := func(name string, value Secret, schemes ...string) {
		u, err := url.Parse(string(value))
		// The value may hold a password, so it is not repeated.
		check(value == "" || err == nil && slices.Contains(schemes, u.Scheme),
			name, "is not a URL that begins with %s://", strings.Join(schemes, ":// or "))
	}
	_, _, err := net.SplitHostPort(c.HTTPAddr)
	check(err == nil, "HTTP_ADDR", "is %q; it takes host:port, e.g. :8080 or 127.0.0.1:8080", c.HTTPAddr)
	check((c.TLSCertFile == "") == (c.TLSKeyFile == ""), "TLS_CERT_FILE", "and TLS_KEY_FILE go together: set both or none")
	check(c.RequestTimeout > 0, "HTTP_REQUEST_TIMEOUT", "must be more than 0")
	check(c.ShutdownTimeout > 0, "SHUTDOWN_TIMEOUT", "must be more than 0")
	check(c.MaxCalls >= 0, "HTTP_MAX_CALLS", "must not be negative")
	check(c.MaxStreams >= 0, "HTTP_MAX_STREAMS", "must not be negative")
	check(c.MaxConnectionAge >= 0, "HTTP_MAX_CONNECTION_AGE", "must not be negative")
	_, _, err = net.SplitHostPort(c.AdminAddr)
	check(c.AdminAddr == "" || err == nil, "ADMIN_ADDR", "is %q; it takes host:port, e.g. 127.0.0.1:9090, or nothing", c.AdminAddr)
	c.authProblems(check, oneOf, isURL)
	for _, origin := range c.CORSAllowedOrigins {
		check(isOrigin(origin), "CORS_ALLOWED_ORIGINS", "has %q; it takes origins such as https://app.example.com, with at most one * in each", origin)
	}
	isURL("DATABASE_URL", c.DatabaseURL, "postgres", "postgresql")
	isURL("DATABASE_DIRECT_URL", c.DatabaseDirectURL, "postgres", "postgresql")
	check(c.DatabaseMaxConns >= 3, "DATABASE_MAX_CONNS", "must be at least 3")
	if c.RedisURL != "" {
		err := kv.CheckURL(string(c.RedisURL))
		check(err == nil, "REDIS_URL", "%v", err)
	}
	oneOf("BROKER", c.Broker, rabbitMQ, postgresBroker)
	check(c.Broker != rabbitMQ || c.AMQPURL != "", "AMQP_URL", "is required: %s", setting("AMQP_URL").help)
	isURL("AMQP_URL", c.AMQPURL, "amqp", "amqps")
	isURL("S3_ENDPOINT", Secret(c.S3Endpoint), "http", "https")
	check((c.AWSAccessKeyID == "") == (c.AWSSecretAccessKey == ""), "AWS_ACCESS_KEY_ID", "and AWS_SECRET_ACCESS_KEY go together: set both or none")
	oneOf("LOG_LEVEL", c.LogLevel, "debug", "info", "warn", "error")
	oneOf("LOG_FORMAT", c.LogFormat, "json", "console")
	check(c.LogFileMaxSize > 0, "LOG_FILE_MAX_SIZE", "must be at least 1")
	check(c.LogFileMaxBackups >= 0, "LOG_FILE_MAX_BACKUPS", "must not be negative")
	check(c.LogFileMaxAge >= 0, "LOG_FILE_MAX_AGE", "must not be negative")
	return problems
}

// authProblems are those of who may call, and how much.
func (c *Config) authProblems(
	check func(ok bool, name, format string, args ...any), oneOf func(name, value string, allowed ...string),
	isURL func(name string, value Secret, schemes ...string),
) {
	oneOf("AUTH_MODE", c.AuthMode, authRequired, authOff)
	if c.AuthMode == authOff {
		check(c.Role == Dev, "AUTH_MODE", "is off; that is for cmd/dev alone: set it to required")
		check(c.Role != Dev || isLoopback(c.HTTPAddr), "AUTH_MODE", "is off, so HTTP_ADDR must be a loopback address such as 127.0.0.1:8080, not %q", c.HTTPAddr)
	}
	check(c.AuthAdminKey == "" || auth.CheckKey(string(c.AuthAdminKey)) == nil, "AUTH_ADMIN_KEY", "is no API key; cmd/server -new-key makes one")
	isURL("AUTH_JWT_ISSUER", Secret(c.AuthJWTIssuer), "http", "https")
	check((c.AuthJWTIssuer == "") == (c.AuthJWTAudience == ""), "AUTH_JWT_ISSUER", "and AUTH_JWT_AUDIENCE go together: set both or none")
	_, err := methodRates(c.RateLimitMethods)
	check(err == nil, "RATE_LIMIT_METHODS", "%v", err)
	check(c.MessageMaxQueues >= 0, "MESSAGE_MAX_QUEUES", "must not be negative")
	check(c.MessageMaxWaiting >= 0, "MESSAGE_MAX_WAITING", "must not be negative")
	check(c.MessageMaxPerSecond >= 0, "MESSAGE_MAX_PER_SECOND", "must not be negative")
}

// methodRates reads RATE_LIMIT_METHODS: rates by the paths of the methods.
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

// isLoopback says whether an address can be reached from this machine alone.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// isOrigin says whether it is an origin as a browser writes it, but for one "*".
func isOrigin(s string) bool {
	if s == "*" {
		return true
	}
	u, err := url.Parse(strings.Replace(s, "*", "0", 1)) // A digit may stand in a name and in a port.
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && s == strings.ToLower(s) &&
		u.Scheme+"://"+u.Host == strings.Replace(s, "*", "0", 1) && !strings.Contains(u.Host, "*")
}
