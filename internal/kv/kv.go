// Package kv is the way to Redis. Losing Redis costs speed, never truth: what must be true is a row in Postgres.
package kv

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

// Open makes a client for a URL such as redis://:password@host:6379/0. It connects when it is first used, and again
// after each loss. The error for a bad URL does not repeat it, since it may hold a password.
func Open(url string) (*redis.Client, error) {
	options, err := redis.ParseURL(url)
	if err != nil {
		return nil, errors.New("not a Redis URL; write it as redis://user:password@host:6379/0")
	}
	return redis.NewClient(options), nil
}

// LogTo has the clients of this process write to a log what they would write to standard error: at debug level, since whoever
// uses a client says what its errors mean.
func LogTo(log *zap.Logger) { redis.SetLogger(clientLog{log}) }

type clientLog struct{ *zap.Logger }

func (l clientLog) Printf(_ context.Context, format string, values ...any) {
	if entry := l.Check(zap.DebugLevel, "Redis client"); entry != nil {
		entry.Write(zap.String("message", fmt.Sprintf(format, values...)))
	}
}
