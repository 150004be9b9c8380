import { useMutation, useQuery, skipToken } from "@connectrpc/connect-query";
import { createClient } from "@connectrpc/connect";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampDate } from "@bufbuild/protobuf/wkt";
import { useEffect, useLayoutEffect, useRef, useState, type FormEvent } from "react";
import {
  ChannelService,
  Gap_Reason,
  type Gap,
  type Message,
  type PublishRequestSchema,
  type SubscribeRequestSchema,
} from "../../gen/plinth/channel/v1/channel_pb.js";
import { number, t } from "../../i18n";
import { often } from "../../rpc/client";
import { transport, useSession } from "../../rpc/session";
import { streams } from "../../rpc/watch";
import { parseAttributes } from "../../ui/attributes";
import { Fact, Field, Head, Panel, Status, Time, type Tone } from "../../ui/basic";
import { CopyAs } from "../../ui/copy";
import { Dialog } from "../../ui/dialog";
import { Attributes, Glance, Payload } from "../../ui/payload";
import { useFilter } from "../../ui/query";
import { Empty, Failure } from "../../ui/state";
import { tell } from "../../ui/toast";

const client = createClient(ChannelService, transport);

/** How many lines are kept on the page. */
const kept = 500;

type Line = { id: string; message: Message } | { id: string; gap: Gap };
type State = "connecting" | "open" | "interrupted" | "closed";

const states: Record<State, [Parameters<typeof t>[0], Tone]> = {
  connecting: ["channel.connecting", "busy"],
  open: ["channel.open", "good"],
  interrupted: ["channel.interrupted", "warn"],
  closed: ["channel.closed", "calm"],
};

/** Channels listens to a channel, or to all that match a pattern, and publishes to one. */
export default function Channels() {
  const [filter, setFilter] = useFilter(["channel"]);
  const [text, setText] = useState(filter.channel);
  useEffect(() => setText(filter.channel), [filter.channel]); // One may have gone back.
  function submit(event: FormEvent) {
    event.preventDefault();
    setFilter({ channel: text.trim() });
  }
  const channel = filter.channel;
  return (
    <div className="page">
      <Head title={t("nav.channels")} />
      <form className="filters" onSubmit={submit}>
        <Field label={t("channel.name")} hint={t("channel.name.hint")}>
          <input type="search" required maxLength={200} spellCheck={false} value={text} onChange={(e) => setText(e.target.value)} />
        </Field>
        <button className="primary">{t("channel.listen")}</button>
      </form>
      {channel === "" ? (
        <Panel>
          <Empty title={t("channel.ask")}>
            <p>{t("channel.ask.hint")}</p>
          </Empty>
        </Panel>
      ) : (
        <One key={channel} channel={channel} />
      )}
    </div>
  );
}

function One({ channel }: { channel: string }) {
  const pattern = /[*#]/.test(channel);
  return (
    <>
      {!pattern && <Facts channel={channel} />}
      <div className="columns">
        <Live request={pattern ? { patterns: [channel] } : { channels: [channel] }} />
        <Publish channel={pattern ? "" : channel} />
      </div>
    </>
  );
}

function Facts({ channel }: { channel: string }) {
  const { data, error } = useQuery(ChannelService.method.getChannel, channel ? { channel } : skipToken, { refetchInterval: often });
  if (error) return <Failure error={error} />;
  return (
    <dl className="facts">
      <Fact name={t("channel.history")}>{data ? number(data.historySize) : "–"}</Fact>
      <Fact name={t("channel.last")} small>
        <Time at={data?.lastPublishTime} />
      </Fact>
      <Fact name={t("channel.lastId")} small>
        <code>{data?.lastId}</code>
      </Fact>
    </dl>
  );
}

/** Live shows what comes, and says where something is missing. It goes on after the last message that it had, whatever cuts it. */
function Live({ request }: { request: MessageInitShape<typeof SubscribeRequestSchema> }) {
  const { who } = useSession();
  const [lines, setLines] = useState<Line[]>([]);
  const [state, setState] = useState<State>("connecting");
  const [error, setError] = useState<unknown>(null);
  const [listening, setListening] = useState(true);
  const [following, setFollowing] = useState(true);
  const [open, setOpen] = useState<Message | null>(null);
  const [wanted] = useState(request);
  const after = useRef("");
  const box = useRef<HTMLDivElement>(null);

  useEffect(() => {
    if (!listening) return;
    const stop = new AbortController();
    const add = (line: Line) => setLines((before) => [...before.slice(1 - kept), line]);
    setState("connecting");
    setError(null);
    streams(stop.signal, async () => {
      try {
        for await (const { id, event } of client.subscribe({ ...wanted, afterId: after.current }, { signal: stop.signal, timeoutMs: 0 })) {
          if (id) after.current = id;
          if (event.case === "message") add({ id, message: event.value });
          if (event.case === "gap") add({ id: `gap ${id} ${event.value.channel}`, gap: event.value });
          setState(event.case === "heartbeat" && event.value.interrupted ? "interrupted" : "open");
        }
      } finally {
        if (!stop.signal.aborted) setState("connecting");
      }
    }).catch((failure: unknown) => {
      setState("closed");
      setError(failure);
    });
    return () => {
      stop.abort();
      setState("closed");
    };
  }, [who, wanted, listening]);
  useLayoutEffect(() => {
    if (following && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines, following]);

  function scrolled() {
    const b = box.current;
    if (b) setFollowing(b.scrollHeight - b.scrollTop - b.clientHeight < 8);
  }
  const [word, tone] = states[state];
  return (
    <Panel
      title={t("channel.live")}
      actions={
        <div className="row">
          <Status tone={tone}>{t(word)}</Status>
          {!following && <button onClick={() => setFollowing(true)}>{t("tail.go")}</button>}
          <button onClick={() => setListening(!listening)}>{listening ? t("queue.pause") : t("queue.resume")}</button>
          <button onClick={() => setLines([])}>{t("tail.clear")}</button>
        </div>
      }
    >
      <div className="body">
        {error !== null && <Failure error={error} />}
        {lines.length === 0 ? (
          <Empty title={t("channel.none")} />
        ) : (
          <div className="tail" role="log" aria-live="off" aria-label={t("channel.live")} tabIndex={0} ref={box} onScroll={scrolled}>
            {lines.map((line) =>
              "gap" in line ? (
                <div key={line.id} className="notice warn">
                  {gapText(line.gap)}
                </div>
              ) : (
                <button key={line.id} className="link" onClick={() => setOpen(line.message)}>
                  <span className="soft">{line.message.publishTime && timestampDate(line.message.publishTime).toLocaleTimeString()}</span>
                  <code>{line.message.channel}</code>
                  <Glance data={dataOf(line.message)} />
                </button>
              ),
            )}
          </div>
        )}
        <CopyAs
          method={ChannelService.method.subscribe}
          input={() => ({ ...wanted, afterId: after.current })}
          path={() => `/api/v1/channels:subscribe?${restQuery(wanted, after.current)}`}
        />
      </div>
      {open && (
        <Dialog wide title={open.channel} close={() => setOpen(null)}>
          <p className="mono">{open.id}</p>
          <Attributes of={open.attributes} />
          <Payload data={dataOf(open)} />
        </Dialog>
      )}
    </Panel>
  );
}

function gapText(gap: Gap): string {
  const why = gap.reason === Gap_Reason.REDIS_LOST ? t("channel.gap.redis") : t("channel.gap.history");
  return gap.missed > 0n ? `${t("channel.gap.n", { n: gap.missed })} ${why}` : `${t("channel.gap")} ${why}`;
}

function dataOf(message: Message): Uint8Array {
  if (message.payload.case === "data") return message.payload.value;
  return new TextEncoder().encode(message.payload.value ?? "");
}

/** restQuery has the names of the REST API for what to listen to. */
function restQuery(wanted: MessageInitShape<typeof SubscribeRequestSchema>, after: string): URLSearchParams {
  const { channels = [], patterns = [] } = wanted as { channels?: string[]; patterns?: string[] };
  return new URLSearchParams([
    ...channels.map((name) => ["channel", name]),
    ...patterns.map((name) => ["pattern", name]),
    ...(after ? [["after_id", after]] : []),
  ]);
}

function Publish({ channel: first }: { channel: string }) {
  const publish = useMutation(ChannelService.method.publish);
  const [channel, setChannel] = useState(first);
  const [text, setText] = useState("");
  const [lines, setLines] = useState("");
  const attributes = parseAttributes(lines);
  const request = (): MessageInitShape<typeof PublishRequestSchema> => ({
    channel,
    payload: { case: "text", value: text },
    attributes: typeof attributes === "number" ? {} : attributes,
  });
  function submit(event: FormEvent) {
    event.preventDefault();
    publish.mutate(request(), { onSuccess: () => tell(t("channel.published")) });
  }
  return (
    <Panel title={t("publish")} actions={<CopyAs method={ChannelService.method.publish} input={request} />}>
      <form className="body" onSubmit={submit}>
        <Field label={t("channel.to")}>
          <input required maxLength={200} spellCheck={false} value={channel} onChange={(e) => setChannel(e.target.value)} />
        </Field>
        <Field label={t("publish.payload")} hint={t("channel.payload.hint")}>
          <textarea rows={6} spellCheck={false} value={text} onChange={(e) => setText(e.target.value)} />
        </Field>
        <Field
          label={t("attributes")}
          hint={t("channel.attributes.hint")}
          wrong={typeof attributes === "number" ? t("attributes.wrong", { n: attributes }) : undefined}
        >
          <textarea rows={2} spellCheck={false} value={lines} onChange={(e) => setLines(e.target.value)} />
        </Field>
        {publish.error && <Failure error={publish.error} />}
        <button className="primary" disabled={publish.isPending || typeof attributes === "number"}>
          {t("publish")}
        </button>
      </form>
    </Panel>
  );
}
