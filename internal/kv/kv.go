// Package kv is the way to Redis. Losing Redis costs speed, never truth: what must be true is a row in Postgres.
package kv

import (
	"errors"

	"github.com/redis/go-redis/v9"
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
