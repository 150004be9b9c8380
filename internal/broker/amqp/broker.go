package amqp

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"go.uber.org/zap"

	"plinth/internal/broker"
	"plinth/internal/errs"
	"plinth/internal/observe"
)

// callLimit bounds every call, because RabbitMQ may be unreachable for longer than a caller should wait.
const callLimit = 5 * time.Second

var (
	errStopped = errs.New(errs.Unavailable, "the RabbitMQ client has stopped")
	errBlocked = errs.New(errs.Unavailable, "RabbitMQ blocks publishers: it has a memory or disk alarm")
)

// Broker implements broker.Broker on RabbitMQ.
type Broker struct {
	url        string
	channelMax uint16 // of each connection, if the server allows so many
	logger     *zap.Logger
	life       context.Context // ends with Run
	end        context.CancelCauseFunc
	publishing *link
	consuming  *link // the first of consumers
	publisher  *publisher
	links      sync.WaitGroup
	warned     sync.Once // of queues that are older than RabbitMQ 4

	mu        sync.Mutex
	running   bool
	consumers []*link
}

var _ broker.Broker = (*Broker)(nil)

// New returns a Broker for an AMQP URL, amqp:// or amqps://. It does not connect before Run. It returns an error if the URL
// is malformed; the error does not quote the URL, which contains a password.
func New(url string, logger *zap.Logger) (*Broker, error) {
	if _, err := amqp091.ParseURI(url); err != nil {
		return nil, errs.New(errs.InvalidArgument,
			"malformed AMQP URL, want amqp://user:password@host:port/vhost with reserved characters percent-encoded")
	}
	life, end := context.WithCancelCause(context.Background())
	b := &Broker{
		url:        url,
		channelMax: math.MaxUint16,
		logger:     logger,
		life:       life,
		end:        end,
		publishing: newLink(linkConfig{
			url: url, logger: logger.With(zap.String("connection", "publishing")), life: life, channelMax: math.MaxUint16,
		}),
		publisher: newPublisher(logger),
	}
	b.consuming = b.newConsumer()
	b.consumers = []*link{b.consuming}
	return b, nil
}

// Run implements broker.Broker. It must be called only once.
func (b *Broker) Run(ctx context.Context) error {
	b.mu.Lock()
	b.running = true
	b.start(b.publishing, b.publisher.serve)
	for _, l := range b.consumers {
		b.start(l, awaitClose)
	}
	b.mu.Unlock()
	<-ctx.Done()
	b.end(errStopped)
	b.mu.Lock()
	b.running = false
	b.mu.Unlock()
	b.links.Wait()
	return nil
}

func (b *Broker) start(l *link, serve func(*amqp091.Connection) error) {
	b.links.Go(func() { defer observe.LogPanic(b.logger); l.run(b.life, serve) })
}

// Ping implements broker.Broker. It sends nothing to the server: a silent server is noticed by the heartbeat, which ends the
// connection.
func (b *Broker) Ping(context.Context) error {
	switch {
	case !b.publishing.up() || !b.consuming.up():
		return errs.New(errs.Unavailable, "RabbitMQ is away")
	case b.publisher.blocked():
		return errBlocked
	default:
		return nil
	}
}

// bounded returns a context that ends after callLimit at the latest.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, callLimit)
}

// expired returns the error of a call whose context has ended. A cancellation came from the caller and is returned as it is;
// a timeout means that RabbitMQ was too slow.
func expired(ctx context.Context, message string) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return errs.Wrap(ctx.Err(), errs.Unavailable, "%s", message)
}

// classify assigns a kind to an error of RabbitMQ or of the connection to it.
func classify(err error) error {
	var kind *errs.Error
	switch {
	case err == nil || errors.As(err, &kind):
		return err
	case errors.Is(err, amqp091.ErrChannelMax):
		return errs.Wrap(err, errs.ResourceExhausted, "the connection to RabbitMQ has no channel left")
	case isReply(err, amqp091.NotFound):
		return broker.ErrNoQueue
	default:
		return errs.Wrap(err, errs.Unavailable, "RabbitMQ is away")
	}
}

// isReply reports whether err is a reply of the server with that code.
func isReply(err error, code int) bool {
	var reply *amqp091.Error
	return errors.As(err, &reply) && reply.Server && reply.Code == code
}
