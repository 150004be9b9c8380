package e2e

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
)

// schedules call an endpoint, publish, and are refused.
func (a *aviary) schedules() {
	secret := "whsec_" + base64.StdEncoding.EncodeToString([]byte(a.secret("secret of a schedule")))
	a.add("secret of a schedule, as it is written", secret)
	call := fmt.Sprintf(`"http": {"url": "%s/run?token=%s", "method": "POST", "headers": {"authorization": "Bearer %s"}, "body": %q, "signing_secret": %q}`,
		a.endpoint, a.secret("token of a schedule's URL"), a.secret("header of a schedule"),
		base64.StdEncoding.EncodeToString([]byte(a.payload("body of a schedule"))), secret)
	a.good("POST", "/api/v1/schedules", `{"name": "calls", "cron": "0 0 1 1 *", `+call+`}`)
	a.good("POST", "/api/v1/schedules", `{"name": "publishes", "cron": "0 0 1 1 *", "publish": {"queue": "pulled", "message": "`+a.payload("payload of a schedule")+`"}}`)
	for _, name := range []string{"calls", "publishes"} {
		a.good("POST", "/api/v1/schedules/"+name+":trigger", "{}")
		eventually(a, "the run ends", func() bool {
			return strings.Contains(a.good("GET", "/api/v1/schedules/"+name+"/runs", ""), `"endTime"`)
		})
	}
	a.bad("POST", "/api/v1/schedules", fmt.Sprintf(`{"name": "refused", "cron": "* * * * *", "http": {"url": "https://user:%s@example.com/"}}`,
		a.secret("password of a schedule's URL")))
	a.bad("POST", "/api/v1/schedules", `{"name": "refused", "cron": "never", "publish": {"queue": "pulled", "message": "`+a.payload("payload of no schedule")+`"}}`)
	a.bad("POST", "/api/v1/schedules", `{"name": "refused", "cron": "* * * * *", "http": {"url": "https://example.com/", "signing_secret": "`+
		a.secret("secret of no schedule")+`"}}`)
}

// files come by every way, and their URLs are made and refused.
func (a *aviary) files() {
	content := a.payload("content of a file")
	a.good("PUT", "/api/v1/upload/plain.txt?attributes.note="+a.payload("attribute of a file"), content, "Content-Type", "text/plain",
		"Idempotency-Key", a.payload("key of an upload"))
	a.bad("PUT", "/api/v1/upload/plain.txt?checksum="+a.secret("parameter that is none"), content, "Content-Type", "text/plain")
	a.bad("PUT", "/api/v1/upload/plain.txt", content, "Content-Type", "text/plain", "Repr-Digest", "sha-256=:"+a.payload("digest")+":")
	const form = "multipart/form-data; boundary=x"
	part := "--x\r\nContent-Disposition: form-data; name=\"%s\"\r\n\r\n%s\r\n--x--\r\n"
	a.bad("POST", "/api/v1/upload", fmt.Sprintf(part, "file", a.payload("content of a form")), "Content-Type", form)
	a.bad("POST", "/api/v1/upload", fmt.Sprintf(part, "note", a.payload("field of a form")), "Content-Type", form)
	note := base64.StdEncoding.EncodeToString([]byte(a.payload("metadata of an upload")))
	for metadata, want := range map[string]int{"filename YQ==,note " + note: 201, "note " + note + "!": 400} {
		status, _ := a.ask("POST", "/api/v1/uploads", content, "Content-Type", "application/offset+octet-stream", "Tus-Resumable", "1.0.0",
			"Upload-Length", fmt.Sprint(len(content)), "Upload-Metadata", metadata)
		if status != want {
			a.Errorf("%s: %d", metadata, status)
		}
	}
	upload := a.good("POST", "/api/v1/files:createUploadUrl", `{"filename": "direct.txt", "size": "5", "checksum": "`+strings.Repeat("a", 64)+`", "attributes": {"note": "`+a.payload("attribute")+`"}}`)
	id := a.value(upload, "id")
	a.signed("upload", a.value(upload, "url"))
	a.bad("POST", "/api/v1/files/"+id+":complete", "{}")
	a.good("POST", "/api/v1/files/"+id+":abort", "{}")
	stored := a.value(a.good("PUT", "/api/v1/upload/again.txt", content, "Content-Type", "text/plain"), "id")
	a.signed("download", a.value(a.good("POST", "/api/v1/files/"+stored+":createDownloadUrl", "{}"), "url"))
	a.bad("GET", "/api/v1/files/"+stored+"/content?signature="+a.secret("signature that is none"), "")
}

// signed takes the signature of a URL.
func (a *aviary) signed(what, text string) {
	u, err := url.Parse(text)
	if err != nil {
		a.Fatal(err)
	}
	a.add("signature of the URL of an "+what, u.Query().Get("X-Amz-Signature"))
}

// values are those of the cache, of locks and of channels.
func (a *aviary) values() {
	value := func(what string) string {
		return `{"value": "` + base64.StdEncoding.EncodeToString([]byte(a.payload(what))) + `"}`
	}
	a.good("PUT", "/api/v1/cache/canaries", value("value"))
	a.bad("PUT", "/api/v1/cache/canaries", value("value that is refused"), "If-None-Match", "*")
	a.bad("PUT", "/api/v1/cache/canaries?ttl=x", value("value without a time"))
	a.bad("PUT", "/api/v1/cache/canaries", a.payload("value that is no JSON"))
	a.bad("POST", "/api/v1/cache/canaries:increment", `{"delta": "1"}`)
	a.bad("POST", "/api/v1/cache:setMany", `{"entries": [{"key": "a", "value": "`+a.payload("value that is no Base64")+`!"}]}`)
	a.good("GET", "/api/v1/cache/canaries", "")
	a.good("DELETE", "/api/v1/cache/canaries", "")
	lease := a.good("POST", "/api/v1/locks/canaries:acquire", `{"ttl": "60s", "owner": "`+a.payload("owner")+`"}`)
	a.add("lease", a.value(lease, "leaseId"))
	a.bad("POST", "/api/v1/locks/canaries:acquire", `{"ttl": "60s"}`)
	a.ask("POST", "/api/v1/locks/canaries:renew", `{"lease_id": "`+a.secret("lease that is none")+`", "ttl": "60s"}`)
	a.good("POST", "/api/v1/locks/canaries:release", `{"lease_id": "`+a.value(lease, "leaseId")+`"}`)
	a.good("POST", "/api/v1/channels/canaries:publish", `{"text": "`+a.payload("message")+`", "attributes": {"note": "`+a.payload("attribute of a message")+`"}}`)
	a.bad("POST", "/api/v1/channels/canaries:publish", `{"data": "`+a.payload("message that is no Base64")+`!"}`)
	stream := a.value(a.good("POST", "/api/v1/channels:createSubscribeUrl", `{"channels": ["canaries"], "expires_in": "60s"}`), "url")
	u, err := url.Parse(stream)
	if err != nil {
		a.Fatal(err)
	}
	for name, values := range u.Query() {
		if len(values[0]) > 40 {
			a.add("credential "+name+" of a URL", values[0])
		}
	}
	a.bad("GET", stream+"&channel=another", "", "Authorization", "")
	a.bad("GET", stream+"x", "", "Authorization", "")
}

// faults are backends that go away, with requests on their way, and those that are asked with a wrong password.
func (a *aviary) faults() {
	redis, err := url.Parse(a.env["REDIS_URL"])
	if err != nil {
		a.Fatal(err)
	}
	redis.User = url.UserPassword("", a.secret("password of Redis"))
	stranger := start(a, "server", with(a.env, map[string]string{
		"REDIS_URL": redis.String(), "BROKER": "rabbitmq", "AMQP_URL": "amqp://guest:" + a.secret("password of RabbitMQ") + "@127.0.0.1:5672/",
	}))
	stranger.says(a, `(?i)rabbitmq`)
	stranger.stop(a)
	lines, _ := stranger.log.from(0)
	for _, line := range lines {
		a.search("a line of a stranger", line)
	}
	a.bucket.Kill()
	content := a.payload("content for a bucket that is away")
	a.bad("PUT", "/api/v1/upload/lost.txt", content, "Content-Type", "text/plain")
	for range 3 {
		a.database.partition()
		a.ask("POST", "/api/v1/message", `{"queue": "pulled", "delay": "60s", "message": "`+a.payload("payload for a database that is away")+`"}`)
	}
	if a.broker != nil {
		a.broker.partition()
		a.ask("POST", "/api/v1/message", `{"queue": "pulled", "message": "`+a.payload("payload for a broker that is away")+`"}`)
	}
	ready(a, a.url)
}
