#!/bin/sh
# Consumes a queue with curl alone: pulls messages, prints their ids, and acknowledges them. What fails is asked again.
# Usage: KEY=plinth_... consume.sh http://host:port queue
ask() {
	curl --silent --fail --max-time 10 --header "Authorization: Bearer $KEY" --header 'Content-Type: application/json' --data "$2" "$messages:$1"
}
values() {
	grep -o "\"$1\": *\"[^\"]*\"" | sed 's/.*: *//'
}
messages=$1/api/v1/queues/$2/messages
while :; do
	reply=$(ask pull '{"maxMessages": 10, "wait": "5s", "ackDeadline": "10s"}') || { sleep 0.1; continue; }
	receipts=$(echo "$reply" | values receipt | paste -sd,)
	[ -n "$receipts" ] || continue
	echo "$reply" | values id | tr -d '"'
	until ask ack "{\"receipts\": [$receipts]}" >/dev/null; do sleep 0.1; done
done
