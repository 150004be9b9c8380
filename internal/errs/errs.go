// Package errs defines the one error vocabulary of the service. An error has a kind and a message that callers may read; its
// cause is only for the log. RPC codes, negative acknowledgements and retries all depend on the kind.
package errs

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// Kind is what went wrong, in the terms of the RPC status codes that callers know. A new one also needs a code in package rpc, a
// rule in Retryable and a line in docs/errors.md; a test compares them.
type Kind uint8

// Internal is the zero Kind: an error that nobody classified.
const (
	Internal Kind = iota
	Canceled
	InvalidArgument
	DeadlineExceeded
	NotFound
	AlreadyExists
	PermissionDenied
	ResourceExhausted
	FailedPrecondition
	Aborted
	Unimplemented
	Unavailable
	Unauthenticated
	DataLoss
)

// Error is a classified error. Message is safe to show to any caller: it names fields and what is allowed, never a
// driver's text, a secret or a stack.
type Error struct {
	Kind    Kind
	Message string
	// Reason is what programs distinguish errors of one kind by, such as QUOTA_EXCEEDED; empty is the kind's own name.
	Reason string
	// RetryAfter is how long retrying is of no use; 0 if unknown.
	RetryAfter time.Duration
	cause      error
}

// New returns an Error of a kind with a message for the caller.
func New(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// Wrap returns an Error of a kind whose cause is kept for the log.
func Wrap(cause error, kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...), cause: cause}
}

// Because sets the reason for programs, in capitals, and returns the error.
func (e *Error) Because(reason string) *Error {
	e.Reason = reason
	return e
}

// After sets how long retrying is of no use, and returns the error.
func (e *Error) After(d time.Duration) *Error {
	e.RetryAfter = d
	return e
}

// Error returns the message with the cause. It is for logs; callers see Message alone.
func (e *Error) Error() string {
	if e.cause == nil {
		return e.Message
	}
	return e.Message + ": " + e.cause.Error()
}

func (e *Error) Unwrap() error { return e.cause }

// KindOf returns the kind of any error: an Error in its chain by its Kind, the context's errors by theirs, all others Internal.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return DeadlineExceeded
	default:
		return Internal
	}
}

// Is reports whether err is of the kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// Shortened returns text cut to most bytes, never within a character.
func Shortened(text string, most int) string {
	if len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most]
}
