package app

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"plinth/internal/auth"
	"plinth/internal/message"
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

// Config is everything that can be set from outside, in sections: the service's own, which stand in settings.go, then one for
// each domain, which stands in its package. Their tags are the documentation: `-help` and docs/configuration.md are made from
// them. A section checks its values itself.
type Config struct {
	Role Role

	HTTP      httpConfig
	Process   processConfig
	Auth      authConfig      `envPrefix:"AUTH_"`
	RateLimit rateLimitConfig `envPrefix:"RATE_LIMIT_"`
	Database  databaseConfig  `envPrefix:"DATABASE_"`
	Redis     redisConfig     `envPrefix:"REDIS_"`
	Broker    brokerConfig
	S3        s3Config
	Log       logConfig `envPrefix:"LOG_"`

	Message message.Limits `envPrefix:"MESSAGE_"`
}

// section is a field of Config that has settings: a pointer to it, and what the names of all its settings begin with.
type section struct {
	prefix string
	fields reflect.Value
}

func (c *Config) sections() (all []section) {
	config := reflect.ValueOf(c).Elem()
	for i := range config.NumField() {
		if field := config.Field(i); field.Kind() == reflect.Struct {
			all = append(all, section{config.Type().Field(i).Tag.Get("envPrefix"), field.Addr()})
		}
	}
	return all
}

// checked is what every section is: Check wants what its settings must fulfil, as far as no parser knows it.
type checked interface{ Check(want want) }

// want names a setting, without the prefix of its section, and what is wrong or allowed, unless ok.
type want = func(ok bool, setting, format string, args ...any)

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

// ParseConfig returns the configuration of a role from an environment. Empty values count as not set. The error is a
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
	for _, s := range cfg.sections() {
		if err := env.ParseWithOptions(s.fields.Interface(), env.Options{Environment: set, Prefix: s.prefix}); err != nil {
			problems = append(problems, s.parseProblems(err, set)...)
		}
	}
	if value, named := environ["ADMIN_ADDR"]; named && value == "" { // The parser takes that for not set.
		cfg.Process.AdminAddr = ""
	}
	problems = append(problems, cfg.problems(problems)...)
	if len(problems) > 0 {
		slices.Sort(problems)
		return cfg, &ConfigError{problems}
	}
	return cfg, nil
}

// parseProblems says in our words what the parser found.
func (s section) parseProblems(err error, set map[string]string) (problems []string) {
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
			field, _ := s.fields.Type().Elem().FieldByName(wrong.Name)
			name := s.settingOf(field).name
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
	wantIn := func(prefix string) want {
		return func(ok bool, setting, format string, args ...any) {
			name := prefix + setting
			known := slices.ContainsFunc(parsed, func(p string) bool { return strings.HasPrefix(p, name+" ") })
			if !ok && !known {
				problems = append(problems, name+" "+fmt.Sprintf(format, args...))
			}
		}
	}
	for _, s := range c.sections() {
		s.fields.Interface().(checked).Check(wantIn(s.prefix))
	}
	if want := wantIn(""); c.Auth.Mode == authOff {
		want(c.Role == Dev, "AUTH_MODE", "is off; that is for cmd/dev alone: set it to required")
		want(c.Role != Dev || isLoopback(c.HTTP.Addr), "AUTH_MODE", "is off, so HTTP_ADDR must be a loopback address such as 127.0.0.1:8080, not %q", c.HTTP.Addr)
	}
	return problems
}
