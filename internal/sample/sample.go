// Package sample is the starting point for a team's own handlers and jobs: replace it with yours.
package sample

import (
	"context"

	"go.uber.org/zap"

	"plinth/internal/message"
	"plinth/internal/schedule"
)

// LogTask handles task_queue by logging each message.
func LogTask(log *zap.Logger) func(context.Context, message.Message) error {
	return func(_ context.Context, m message.Message) error {
		log.Info("task", zap.String("id", m.ID), zap.ByteString("message", m.Body[:min(len(m.Body), 256)]))
		return nil
	}
}

// LogJob writes its arguments to the log of its run.
func LogJob(ctx context.Context) error {
	attempt := schedule.AttemptOf(ctx)
	schedule.Log(ctx).Info("job", zap.Time("fire_time", attempt.FireTime), zap.ByteString("arguments", attempt.Arguments))
	return nil
}
