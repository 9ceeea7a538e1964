/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Rows on log records: one of a transaction as engine/session/txn.c writes it, in both formats,
 * into a worker's buffer that is emptied as it fills; and escaping alone.
 */
#include "bench/micro/micro.h"

#include "engine/obs/log_buf.h"

#define BUFFER_BYTES (64u << 10)
#define WALL_US 1767225600000000ull /* 2026-01-01 */

struct records {
	struct log_buf *buf;
	struct stat_table stats;
	struct span sender;
	uint64_t octets; /* of all records taken out */
	char last;	 /* octet of what was taken out */
};

/* What the control thread does, without the write. */
static void empty(struct records *r)
{
	struct iovec iov[2] = {{0}};
	size_t n = log_buf_peek(r->buf, iov);
	const struct iovec *v = iov[1].iov_len ? &iov[1] : &iov[0];

	if (n)
		r->last = ((const char *)v->iov_base)[v->iov_len - 1];
	log_buf_take(r->buf, n);
	r->octets += n;
}

static void transaction(struct records *r, uint64_t i)
{
	struct log_rec rec;

	if (!log_begin(&rec, r->buf, LOG_EV_TRANSACTION, WALL_US + i))
		return;
	log_id(&rec, "sid", 0x1122334455667788u + i);
	log_id(&rec, "tid", 0x8877665544332211u + i);
	log_cstr(&rec, "listener", "in");
	log_cstr(&rec, "upstream", "mx");
	log_cstr(&rec, "server", "198.51.100.7:25");
	log_cstr(&rec, "client", "192.0.2.25:40712");
	log_str(&rec, "helo", SPAN_LIT("mail.sender.example"));
	log_str(&rec, "from", r->sender);
	log_str(&rec, "to", SPAN_LIT("somebody@receiver.example"));
	log_u64(&rec, "rcpts", 1);
	log_u64(&rec, "rcpts_refused", 0);
	log_u64(&rec, "bytes", 10240);
	log_cstr(&rec, "body", "data");
	log_cstr(&rec, "result", "accepted");
	log_cstr(&rec, "stage", "final");
	log_u64(&rec, "code", 250);
	log_str(&rec, "enhanced", SPAN_LIT("2.0.0"));
	log_str(&rec, "text", SPAN_LIT("Ok: queued as 4WxYz12345"));
	log_ms(&rec, "ms_envelope", 1234);
	log_ms(&rec, "ms_body", 5678);
	log_ms(&rec, "ms_final", 4321);
	log_ms(&rec, "ms_total", 12345);
	log_end(&rec, &r->stats);
}

static uint64_t record_rounds(void *arg, uint64_t rounds)
{
	struct records *r = arg;

	for (uint64_t i = 0; i < rounds; i++) {
		r->sender = micro_hide_span(r->sender);
		transaction(r, i);
		if (i % 32 == 31)
			empty(r);
	}
	empty(r);
	return r->octets;
}

static void record_row(struct micro *m, enum conf_log_format format)
{
	const struct conf_log conf = {.level = LOG_INFO, .format = format};
	struct records r = {.buf = log_buf_new(BUFFER_BYTES, &conf),
		.sender = SPAN_LIT("someone@sender.example")};

	micro_check(m, r.buf != NULL, "there is memory");
	uint64_t one = record_rounds(&r, 1);
	micro_check(m, one > 200 && one < 1000 && r.last == '\n', "a record comes out");
	micro_check(m, record_rounds(&r, 100) == 101 * one, "and none is lost");
	micro_measure(m, (struct micro_size){"record", 1, one}, record_rounds, &r);
	log_buf_free(r.buf);
}

/* ---- escaping ---- */

struct escape_text {
	struct span in;
	size_t (*escape)(char *out, size_t max, struct span v);
};

static uint64_t escape_rounds(void *arg, uint64_t rounds)
{
	struct escape_text *t = arg;
	char out[LOG_RECORD_BYTES_MAX];
	uint64_t sum = 0;

	while (rounds--) {
		t->in = micro_hide_span(t->in);
		sum += t->escape(out, sizeof(out), t->in);
	}
	return sum;
}

static const struct {
	const char *name, *in, *json;
} texts[] = {
	{"a mailbox", "someone@sender.example", "\"someone@sender.example\""},
	{"a reply with quotes", "5.1.1 <\"x\"@receiver.example>: no such user",
		"\"5.1.1 <\\\"x\\\"@receiver.example>: no such user\""},
	{"UTF-8", "gr\xc3\xbc\xc3\x9f@b\xc3\xbc\x63her.example",
		"\"gr\xc3\xbc\xc3\x9f@b\xc3\xbc\x63her.example\""},
};

void rows_log(struct micro *m)
{
	if (micro_row(m, "log/transaction, JSON"))
		record_row(m, LOG_JSON);
	if (micro_row(m, "log/transaction, logfmt"))
		record_row(m, LOG_LOGFMT);
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		struct escape_text t = {span_str(texts[i].in), log_escape_json};
		char out[256];

		if (!micro_row(m, "log/escape %s", texts[i].name))
			continue;
		size_t n = log_escape_json(out, sizeof(out), t.in);
		micro_check(m, span_eq(span_of(out, n), span_str(texts[i].json)),
			"it is escaped as JSON");
		micro_measure(m, (struct micro_size){"value", 1, t.in.n}, escape_rounds, &t);
	}
}
