package amqp

import "go.uber.org/zap"

const (
	// usualChannels is a server's default channel_max.
	usualChannels = 2047
	// spareChannels is the number of channels of a connection that subscriptions leave for everything else.
	spareChannels = 16
)

// newConsumer returns a link to consume over. RabbitMQ limits the channels of a connection and each subscription takes one,
// so there are as many connections as necessary. The first exists from the start and is also used for calls.
func (b *Broker) newConsumer() *link {
	logger := b.logger.With(zap.String("connection", "consuming"), zap.Int("number", len(b.consumers)+1))
	return newLink(linkConfig{url: b.url, logger: logger, life: b.life, channelMax: b.channelMax})
}

// room returns how many subscriptions have a place on the link. Before the link is connected, it assumes the default.
func (l *link) room() int {
	channels := usualChannels
	if conn, _ := l.live(); conn != nil {
		channels = int(conn.Config.ChannelMax)
	}
	return max(1, channels-spareChannels)
}

// place assigns a link to a subscription. Each place is released with leave.
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

// move assigns another link to a subscription if its link turns out to have too few places.
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
