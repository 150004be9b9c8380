// Calls Plinth with Node's @grpc/grpc-js:
// PLINTH_API_KEY=... node --input-type=module - <host:port> <descriptor set> <grpc-js.mjs
//
// The protos come as a descriptor set, as `buf build` writes it; proto-loader also takes the .proto files. What came of the
// calls is printed as JSON.
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const [address, protos] = process.argv.slice(2);
const definition = protoLoader.loadFileDescriptorSetFromBuffer(readFileSync(protos), { json: true });
const { MessageService } = grpc.loadPackageDefinition(definition).plinth.message.v1;
const client = new MessageService(address, grpc.credentials.createInsecure());
const createQueue = promisify(client.createQueue).bind(client);
const publish = promisify(client.publish).bind(client);

const authorization = `Bearer ${process.env.PLINTH_API_KEY}`;
const metadata = (more) => grpc.Metadata.fromHttp2Headers({ authorization, ...more });
const within = (ms) => ({ deadline: Date.now() + ms });

// What a call that fails tells: its code, its message, and the details, which come in a trailer.
async function failure(call) {
  try {
    await call;
  } catch (error) {
    const [status = Buffer.alloc(0)] = error.metadata.get("grpc-status-details-bin");
    const { details = [] } = definition["google.rpc.Status"].deserialize(status);
    return {
      code: grpc.status[error.code],
      message: error.details,
      details: Object.fromEntries(details.map(({ "@type": url, ...detail }) => [url.split("/")[1], detail])),
    };
  }
}

function subscribe(ms) {
  const stream = client.consume(metadata(), within(ms));
  stream.write({ subscribe: { queue: "grpc-js" } });
  return stream;
}

await createQueue({ name: "grpc-js" }, metadata(), within(20_000));
const hello = { queue: "grpc-js", message: "hello from grpc-js" };
const published = await publish(hello, metadata(), within(20_000));

const stream = subscribe(20_000);
const [{ messages: [received] }] = await once(stream, "data");
stream.write({ ack: { ids: [received.id] } });
stream.end();
await once(stream, "end"); // The stream ends once everything is settled.

const nowhere = { queue: "nowhere", message: "hello" };
console.log(JSON.stringify({
  published: published.id,
  received: { id: received.id, attempt: received.attempt, payload: received.payload.toString() },
  not_found: await failure(publish(nowhere, metadata({ "x-request-id": "grpc-js-1" }), within(20_000))),
  deadline: await failure(once(subscribe(300), "data")), // The queue is empty.
  without_key: await failure(publish(hello, new grpc.Metadata(), within(20_000))),
}));
client.close();
