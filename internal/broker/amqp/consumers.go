package amqp

import "go.uber.org/zap"

const (
	// usualChannels is the channel_max that a server has unless it is configured.
	usualChannels = 2047
	// spareChannels is how many channels of a connection subscriptions leave for all else.
	spareChannels = 16
)

// newConsumer makes a connection to consume over. RabbitMQ bounds the channels of a connection, and a subscription takes one, so
// there are as many connections as it takes. The first is there from the start, and is the one for calls.
func (b *Broker) newConsumer() *link {
	logger := b.logger.With(zap.String("connection", "consuming"), zap.Int("number", len(b.consumers)+1))
	return newLink(linkConfig{url: b.url, logger: logger, life: b.life, channelMax: b.channelMax})
}

// room is how many subscriptions have a place on the link; before it was connected, as many as usual.
func (l *link) room() int {
	channels := usualChannels
	if conn, _ := l.live(); conn != nil {
		channels = int(conn.Config.ChannelMax)
	}
	return max(1, channels-spareChannels)
}

// place gives a subscription its place on a link, which is for leave.
func (b *Broker) place() *link {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.placeLocked()
}

func (b *Broker) placeLocked() *link {
	for _, l := range b.consumers {
		if l.subscriptions < l.room() {
			l.subscriptions++
			return l
		}
	}
	l := b.newConsumer()
	l.subscriptions = 1
	b.consumers = append(b.consumers, l)
	if b.running {
		b.start(l, awaitClose)
	}
	return l
}

// move gives a subscription another place where its link turns out to have too few.
func (b *Broker) move(from *link) *link {
	b.mu.Lock()
	defer b.mu.Unlock()
	if from.subscriptions <= from.room() {
		return from
	}
	from.subscriptions--
	return b.placeLocked()
}

func (b *Broker) leave(l *link) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l.subscriptions--
}
