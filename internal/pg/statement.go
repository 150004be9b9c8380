package pg

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.opentelemetry.io/otel/attribute"
	"go.uber.org/zap"

	"plinth/internal/errs"
	"plinth/internal/observe"
)

// maxSQL is the most bytes of a statement that are logged.
const maxSQL = 2 << 10

// statements observes the statements of a pool: their time counts as that of the call, each is logged at debug, and those that
// take long are warnings. Values are never logged, and the text of a statement has none.
type statements struct {
	log  *zap.Logger
	slow time.Duration // 0 is never
}

var (
	_ pgx.QueryTracer    = statements{}
	_ pgx.BatchTracer    = statements{}
	_ pgx.CopyFromTracer = statements{}
)

type statementKey struct{}

// statement is one that runs.
type statement struct {
	observe.Step
	sql string
}

func (statements) begin(ctx context.Context, sql string) context.Context {
	operation := operationOf(sql)
	ctx, step := observe.Begin(ctx, observe.Postgres, operation)
	if step.Records() {
		step.Describe(attribute.String("db.system.name", "postgresql"), attribute.String("db.operation.name", operation),
			attribute.String("db.query.text", errs.Shortened(textOf(sql), maxSQL)))
	}
	return context.WithValue(ctx, statementKey{}, &statement{step, sql})
}

// operationOf returns the first word of a statement.
func operationOf(sql string) string {
	sql = strings.TrimLeft(sql, " \t\n")
	for i := range len(sql) {
		if c := sql[i] | 0x20; c < 'a' || c > 'z' {
			return strings.ToUpper(sql[:i])
		}
	}
	return strings.ToUpper(sql)
}

// problemOf returns what a span says of an error: PostgreSQL's code, or else its kind.
func problemOf(err error) string {
	if reply := (*pgconn.PgError)(nil); errors.As(err, &reply) {
		return reply.Code
	}
	return observe.Problem(err)
}

func (s statements) end(ctx context.Context, err error) {
	st, ok := ctx.Value(statementKey{}).(*statement)
	if !ok {
		return
	}
	took := st.End(problemOf(err))
	level, message := zap.DebugLevel, "statement"
	if s.slow > 0 && took >= s.slow {
		level, message = zap.WarnLevel, "slow statement"
	}
	entry := s.log.Check(level, message)
	if entry == nil {
		return
	}
	fields := []zap.Field{zap.String("sql", errs.Shortened(textOf(st.sql), maxSQL)), zap.Duration("duration_ms", took), zap.Bool("failed", err != nil)}
	if parent, _ := observe.Trace(ctx); parent != "" {
		fields = append(fields, zap.String("trace_id", parent[3:35]))
	}
	entry.Write(fields...)
}

// textOf returns a statement on one line. That which begins a transaction sets what it is for, which is left out.
func textOf(sql string) string {
	if strings.HasPrefix(sql, "BEGIN;") {
		return "BEGIN"
	}
	return strings.Join(strings.Fields(sql), " ")
}

// TraceQueryStart implements pgx.QueryTracer.
func (s statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	return s.begin(ctx, data.SQL)
}

// TraceQueryEnd implements pgx.QueryTracer.
func (s statements) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	s.end(ctx, data.Err)
}

// TraceBatchStart implements pgx.BatchTracer. The last statement of a batch is the one that it is for.
func (s statements) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	sql := ""
	if queued := data.Batch.QueuedQueries; len(queued) > 0 {
		sql = queued[len(queued)-1].SQL
	}
	return s.begin(ctx, sql)
}

// TraceBatchQuery implements pgx.BatchTracer.
func (statements) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

// TraceBatchEnd implements pgx.BatchTracer.
func (s statements) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchEndData) {
	s.end(ctx, data.Err)
}

// TraceCopyFromStart implements pgx.CopyFromTracer.
func (s statements) TraceCopyFromStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceCopyFromStartData) context.Context {
	return s.begin(ctx, "COPY "+data.TableName.Sanitize())
}

// TraceCopyFromEnd implements pgx.CopyFromTracer.
func (s statements) TraceCopyFromEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceCopyFromEndData) {
	s.end(ctx, data.Err)
}
