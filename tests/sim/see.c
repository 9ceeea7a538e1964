/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See see.h. One direction of one connection at a time: records in clear are skipped, the others
 * are tried with the key of the handshake until that does not fit any more, then with that of the
 * application. For each record it is noted where it ends and how much plain text there was then.
 */
#include "tests/sim/see.h"

#include <wolfssl/options.h>
#include <wolfssl/wolfcrypt/aes.h>
#include <wolfssl/wolfcrypt/kdf.h>

#define HEAD_BYTES 5
#define TAG_BYTES 16
#define KEY_BYTES 16
#define IV_BYTES 12

enum { TYPE_ALERT = 21, TYPE_HANDSHAKE = 22, TYPE_DATA = 23 };
#define MSG_KEY_UPDATE 24

struct end {
	uint32_t wire, plain;
};

/* One direction. */
struct view {
	struct span wire;
	uint32_t clear, kept; /* before the records; of it seen */
	struct octets plain;
	struct end *ends; /* owns */
	uint32_t count;
	uint32_t end; /* behind close_notify; 0: not said */
	Aes aes;
	uint8_t secret[VEIL_SECRET_BYTES], iv[IV_BYTES];
	uint64_t seq;
	uint32_t at; /* behind the record that is being read */
};

/* ---- keys ---- */

static void expand(uint8_t *out, uint32_t n, const uint8_t *secret, const char *label)
{
	int err = wc_Tls13_HKDF_Expand_Label(out, n, secret, VEIL_SECRET_BYTES,
		(const byte *)"tls13 ", 6, (const byte *)label, (word32)strlen(label), NULL, 0,
		WC_SHA256);

	ASSERT(err == 0);
}

static void use_secret(struct view *v, const uint8_t *secret)
{
	uint8_t key[KEY_BYTES];

	memmove(v->secret, secret, VEIL_SECRET_BYTES);
	expand(key, KEY_BYTES, v->secret, "key");
	expand(v->iv, IV_BYTES, v->secret, "iv");
	wc_AesGcmSetKey(&v->aes, key, KEY_BYTES);
	v->seq = 0;
}

static void next_secret(struct view *v)
{
	uint8_t next[VEIL_SECRET_BYTES];

	expand(next, sizeof(next), v->secret, "traffic upd");
	use_secret(v, next);
}

/* ---- records ---- */

/* The plain text without its padding, and its type; false: not with this key. */
static bool open_record(struct view *v, struct span rec, uint8_t *out, size_t *n, uint8_t *type)
{
	uint8_t nonce[IV_BYTES];
	size_t len = rec.n - HEAD_BYTES - TAG_BYTES;

	memcpy(nonce, v->iv, IV_BYTES);
	for (unsigned i = 0; i < 8; i++)
		nonce[IV_BYTES - 1 - i] ^= (uint8_t)(v->seq >> 8 * i);
	if (wc_AesGcmDecrypt(&v->aes, out, rec.p + HEAD_BYTES, (word32)len, nonce, IV_BYTES,
		    rec.p + rec.n - TAG_BYTES, TAG_BYTES, rec.p, HEAD_BYTES) != 0)
		return false;
	v->seq++;
	while (len > 0 && out[len - 1] == 0)
		len--;
	*type = len > 0 ? out[len - 1] : 0;
	*n = len > 0 ? len - 1 : 0;
	return true;
}

static void add_end(struct view *v, uint32_t wire)
{
	if ((v->count & (v->count - 1)) == 0) {
		v->ends = realloc(v->ends, (v->count ? 2 * v->count : 1) * sizeof(*v->ends));
		ASSERT(v->ends);
	}
	v->ends[v->count++] = (struct end){wire, (uint32_t)v->plain.n};
}

static void read_inner(struct view *v, const uint8_t *p, size_t n, uint8_t type, bool app)
{
	if (type == TYPE_DATA && app)
		octets_add(&v->plain, p, n);
	else if (type == TYPE_ALERT && n == 2 && p[1] == 0)
		v->end = v->at;
	else if (type == TYPE_HANDSHAKE && app && n > 0 && p[0] == MSG_KEY_UPDATE)
		next_secret(v);
}

/* `shake`, `app`: NULL where there never was one. */
static void read_records(struct view *v, const uint8_t *shake, const uint8_t *app)
{
	static uint8_t out[1 << 16];
	bool in_app = false;
	size_t at = v->clear, n;
	uint8_t type;

	if (shake)
		use_secret(v, shake);
	while (shake && v->wire.n >= at + HEAD_BYTES) {
		const uint8_t *p = v->wire.p + at;
		struct span rec = span_of(p, HEAD_BYTES + (size_t)(p[3] << 8 | p[4]));

		if (v->wire.n < at + rec.n)
			return;
		v->at = (uint32_t)(at + rec.n);
		if (p[0] == TYPE_DATA) {
			if (rec.n < HEAD_BYTES + TAG_BYTES + 1)
				return;
			if (!open_record(v, rec, out, &n, &type)) {
				if (in_app || !app)
					return;
				use_secret(v, app);
				in_app = true;
				if (!open_record(v, rec, out, &n, &type))
					return;
			}
			read_inner(v, out, n, type, in_app);
		} else if (in_app) {
			return; /* in clear where nothing may be */
		}
		at += rec.n;
		add_end(v, (uint32_t)at);
	}
}

/* Plain octets that had crossed when `wire` octets had. */
static uint32_t plain_by(const struct view *v, uint32_t wire)
{
	uint32_t lo = 0, hi = v->count;

	if (wire <= v->clear)
		return MIN_OF(wire, v->kept);
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (v->ends[mid].wire <= wire)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo ? v->ends[lo - 1].plain : v->kept;
}

/* Where the last whole record ends. */
static uint32_t whole_of(const struct view *v)
{
	return v->count ? v->ends[v->count - 1].wire : v->clear;
}

/* ---- sockets ---- */

struct seen {
	struct view in, out;
	bool failed;
	uint32_t far_in, far_out; /* octets that the far side read and wrote so far */
};

static const uint8_t *secret_of(const struct rec_veil *k, enum veil_secret which)
{
	return k->has[which] ? k->secret[which] : NULL;
}

static void see_direction(struct view *v, const struct octets *wire, uint32_t clear, uint32_t kept,
	const struct rec_veil *k, bool of_client)
{
	v->wire = octets_span(wire);
	v->clear = (uint32_t)MIN_OF((size_t)clear, wire->n);
	v->kept = MIN_OF(kept, v->clear);
	octets_add(&v->plain, wire->p, v->kept);
	wc_AesInit(&v->aes, NULL, INVALID_DEVID);
	if (of_client)
		read_records(v, secret_of(k, VEIL_CLIENT_HANDSHAKE), secret_of(k, VEIL_CLIENT));
	else
		read_records(v, secret_of(k, VEIL_SERVER_HANDSHAKE), secret_of(k, VEIL_SERVER));
	wc_AesFree(&v->aes);
}

/* A link: from the hello on, what ringpost says in clear is not the session's. A server that went
 * may have got the beginning of one only. */
static uint32_t before_hello(const struct octets *out)
{
	const char word[] = "EHLO ";
	const uint8_t *hello = out->n ? memmem(out->p, out->n, word, 5) : NULL;

	if (hello)
		return (uint32_t)(hello - out->p);
	for (size_t n = MIN_OF(out->n, (size_t)4); n > 0; n--)
		if (memcmp(out->p + out->n - n, word, n) == 0)
			return (uint32_t)(out->n - n);
	return (uint32_t)out->n;
}

static void see_sock(const struct rec_sock *from, struct rec_sock *to, struct seen *s)
{
	const struct rec_veil *k = from->veil;
	size_t unknown;

	see_direction(&s->in, &from->in, k->in_clear, k->in_kept, k, !k->server);
	see_direction(&s->out, &from->out, k->out_clear,
		k->server ? before_hello(&from->out) : k->out_kept, k, k->server);
	to->in = s->in.plain;
	to->out = s->out.plain;
	/* What the engine could think was taken, and nobody knows what it was. */
	unknown = from->offered > from->out.n ? from->offered - whole_of(&s->out) : 0;
	to->offered = to->out.n + unknown;
	/* Nothing is owed to one that breaks TLS, or never had it, or was told nothing in it. A
	 * link may go on in clear. */
	s->failed = k->fouled || !k->open || (!k->server && s->out.plain.n == s->out.kept);
	to->net_dead |= s->failed;
	to->veiled = k->open;
	to->said_end = s->out.end > 0;
	to->far_said_end = s->in.end > 0;
	/* Whether or not the connection ended as well. */
	if (s->in.end > 0 && !to->in_end) {
		to->in_end = true;
		to->in_end_res = RING_EOF;
	}
}

/* What the far side wrote or read, in the octets of the same view. */
static void see_far(const struct view *v, uint32_t *so_far, struct rec_event *e)
{
	uint32_t before = plain_by(v, *so_far);

	*so_far += e->n;
	e->n = plain_by(v, *so_far) - before;
}

/* `failed`: TLS never came to be, or was broken. From its first record on the connection is as good
 * as dead; cleared when that is told. */
static void see_event(struct seen *s, struct rec_event *e)
{
	const struct view *v = e->kind == REC_IN ? &s->in : &s->out;
	uint32_t from, to;

	if (e->kind == REC_FAR_OUT)
		see_far(&s->in, &s->far_out, e);
	else if (e->kind == REC_FAR_IN)
		see_far(&s->out, &s->far_in, e);
	if (e->kind != REC_IN && e->kind != REC_OUT && e->kind != REC_OFFER)
		return;
	from = plain_by(v, e->off);
	to = plain_by(v, e->off + e->n);
	if (e->kind == REC_OFFER && e->off + e->n > v->wire.n)
		to += e->off + e->n - whole_of(v);
	e->off = from;
	e->n = to - from;
	if (e->kind != REC_IN || e->n > 0 || !s->failed)
		return;
	e->kind = REC_NET_DEAD;
	s->failed = false;
}

/* That event brought the far side's last words. */
static bool ends_by(const struct seen *s, const struct rec_event *raw)
{
	return raw->kind == REC_IN && s->in.end > 0 && raw->off + raw->n >= s->in.end;
}

static void *copy_of(const void *p, size_t n)
{
	void *q = malloc(n ? n : 1);

	ASSERT(q);
	if (n)
		memcpy(q, p, n);
	return q;
}

static void copy_octets(struct octets *o)
{
	o->p = copy_of(o->p, o->n);
	o->cap = o->n;
}

void see_record(const struct record *r, struct record *out)
{
	struct seen *seen = calloc(r->sock_count + 1, sizeof(*seen));

	ASSERT(seen);
	*out = *r;
	out->events = copy_of(r->events, r->count * sizeof(*r->events));
	out->socks = copy_of(r->socks, r->sock_count * sizeof(*r->socks));
	out->cap = r->count;
	out->sock_cap = r->sock_count;
	for (uint32_t i = 0; i < r->sock_count; i++) {
		struct rec_sock *s = &out->socks[i];

		s->veil = NULL;
		if (r->socks[i].veil) {
			see_sock(&r->socks[i], s, &seen[i]);
			continue;
		}
		copy_octets(&s->in);
		copy_octets(&s->out);
	}
	for (size_t i = 0; i < r->count; i++) {
		struct rec_event *e = &out->events[i];

		if (e->sock < r->sock_count && r->socks[e->sock].veil)
			see_event(&seen[e->sock], e);
		if (e->sock < r->sock_count && r->socks[e->sock].veil &&
			ends_by(&seen[e->sock], &r->events[i]) && out->socks[e->sock].end_ev == 0)
			out->socks[e->sock].end_ev = (uint32_t)i;
	}
	for (uint32_t i = 0; i < r->sock_count; i++) {
		free(seen[i].in.ends);
		free(seen[i].out.ends);
	}
	free(seen);
}
