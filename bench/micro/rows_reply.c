/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Rows on replies: finding them complete, reading an EHLO list, writing it as the client is shown
 * it, and writing replies of our own.
 */
#include "bench/micro/micro.h"

#include "engine/smtp/ehlo.h"
#include "engine/smtp/line.h"
#include "engine/smtp/local.h"

#define ONE_LINE "250 2.1.5 somebody@receiver.example... Recipient ok\r\n"
#define LIST                                                                      \
	"250-mx.receiver.example greets you\r\n250-PIPELINING\r\n250-SIZE "       \
	"52428800\r\n250-VRFY\r\n"                                                \
	"250-ETRN\r\n250-STARTTLS\r\n250-8BITMIME\r\n250-DSN\r\n250-CHUNKING\r\n" \
	"250 ENHANCEDSTATUSCODES\r\n"
#define LIST_LINES 10

/* ---- complete replies ---- */

struct arriving {
	struct span in;
	size_t piece; /* so many octets at a time */
};

static enum reply_res read_reply(const struct arriving *a, struct smtp_reply *r, size_t *used)
{
	enum reply_res res = REPLY_MORE;
	struct reply_scan rs = {0};

	*used = 0;
	for (size_t n = 0; res == REPLY_MORE && n < a->in.n;) {
		n = MIN_OF(a->in.n, n + a->piece);
		res = smtp_reply_scan(span_of(a->in.p, n), &rs, r, used);
	}
	return res;
}

static uint64_t reply_rounds(void *arg, uint64_t rounds)
{
	struct arriving *a = arg;
	uint64_t sum = 0;

	while (rounds--) {
		struct smtp_reply r = {0};
		size_t used;

		a->in = micro_hide_span(a->in);
		sum += read_reply(a, &r, &used) + used + r.code;
	}
	return sum;
}

static void reply_row(struct micro *m, struct arriving a, unsigned lines, size_t enhanced)
{
	struct smtp_reply r;
	size_t used;

	micro_check(m,
		read_reply(&a, &r, &used) == REPLY_OK && used == a.in.n && r.code == 250 &&
			r.lines == lines && r.enhanced.n == enhanced,
		"code, lines and enhanced code are read");
	micro_measure(m, (struct micro_size){"reply", 1, a.in.n}, reply_rounds, &a);
}

/* ---- EHLO ---- */

struct list {
	struct smtp_reply reply;
	struct ehlo_caps caps;
	struct ehlo_policy policy;
};

static void list_init_of(struct micro *m, struct list *l)
{
	struct reply_scan rs = {0};
	size_t used;

	memset(l, 0, sizeof(*l));
	micro_check(m, smtp_reply_scan(SPAN_LIT(LIST), &rs, &l->reply, &used) == REPLY_OK,
		"the list is a reply");
	smtp_ehlo_read(&l->reply, &l->caps);
	for (int e = 0; e < EXT_COUNT; e++)
		l->policy.policy[e] = (uint8_t)ext_default((enum smtp_ext)e);
}

static uint64_t caps_rounds(void *arg, uint64_t rounds)
{
	struct list *l = arg;
	uint64_t sum = 0;

	while (rounds--) {
		struct ehlo_caps c;

		l->reply.raw = micro_hide_span(l->reply.raw);
		smtp_ehlo_read(&l->reply, &c);
		sum += c.bits + c.size;
	}
	return sum;
}

static uint64_t write_rounds(void *arg, uint64_t rounds)
{
	uint8_t out[SMTP_REPLY_BYTES_MAX];
	struct list *l = arg;
	uint64_t sum = 0;

	while (rounds--) {
		l->reply.raw = micro_hide_span(l->reply.raw);
		sum += smtp_ehlo_write(&l->reply, &l->caps, &l->policy, out, sizeof(out));
	}
	return sum;
}

/* The list is written in `lines` lines. */
static void write_row(struct micro *m, struct list *l, unsigned lines)
{
	uint8_t out[SMTP_REPLY_BYTES_MAX];
	struct reply_scan rs = {0};
	struct smtp_reply r;
	size_t used, n = smtp_ehlo_write(&l->reply, &l->caps, &l->policy, out, sizeof(out));

	micro_check(m,
		n > 0 && smtp_reply_scan(span_of(out, n), &rs, &r, &used) == REPLY_OK && used == n,
		"what is written is a reply");
	micro_check(m, r.lines == lines, "it has the lines that the policy leaves");
	micro_measure(m, (struct micro_size){"list", 1, l->reply.raw.n}, write_rounds, l);
}

static void ehlo_rows(struct micro *m)
{
	static char names[EXT_NAMED_MAX][8];
	struct list l;

	list_init_of(m, &l);
	if (micro_row(m, "ehlo/read, %d lines", LIST_LINES)) {
		micro_check(m, caps_has(&l.caps, EXT_CHUNKING) && l.caps.size == 52428800,
			"CHUNKING and SIZE are seen");
		micro_measure(m, (struct micro_size){"list", 1, l.reply.raw.n}, caps_rounds, &l);
	}
	if (micro_row(m, "ehlo/write, default policy"))
		write_row(m, &l, LIST_LINES - 1); /* STARTTLS needs show_starttls */
	memset(l.policy.policy, EXT_PASS, sizeof(l.policy.policy));
	l.policy.show_starttls = true;
	if (micro_row(m, "ehlo/write, all passed"))
		write_row(m, &l, LIST_LINES);
	l.policy.size_max = 10u << 20;
	if (micro_row(m, "ehlo/write, all passed, own SIZE"))
		write_row(m, &l, LIST_LINES);
	for (unsigned i = 0; i < EXT_NAMED_MAX; i++) {
		snprintf(names[i], sizeof(names[i]), "X-%u", i);
		l.policy.named[i].keyword = span_str(names[i]);
	}
	l.policy.named_count = EXT_NAMED_MAX;
	if (micro_row(m, "ehlo/write, %d named extensions", EXT_NAMED_MAX))
		write_row(m, &l, LIST_LINES);
	l.policy.named_count = 0;
	memset(l.policy.policy, EXT_STRIP, sizeof(l.policy.policy));
	l.policy.show_starttls = false;
	if (micro_row(m, "ehlo/write, all stripped"))
		write_row(m, &l, 1);
}

/* ---- replies of our own ---- */

static uint64_t local_rounds(void *arg, uint64_t rounds)
{
	const struct local_reply *r = arg;
	uint8_t out[LOCAL_REPLY_BYTES_MAX];
	uint64_t sum = 0;

	while (rounds--)
		sum += local_reply_write(micro_hide(r), NULL, out) + out[0];
	return sum;
}

void rows_reply(struct micro *m)
{
	struct local_reply own = {.code = 550,
		.enhanced = "5.7.1",
		.text = "refused by a rule of this gateway",
		.word = "rule"};

	if (micro_row(m, "reply/1 line"))
		reply_row(m, (struct arriving){SPAN_LIT(ONE_LINE), SIZE_MAX / 2}, 1, 5);
	if (micro_row(m, "reply/1 line in pieces of 8"))
		reply_row(m, (struct arriving){SPAN_LIT(ONE_LINE), 8}, 1, 5);
	if (micro_row(m, "reply/%d lines", LIST_LINES))
		reply_row(m, (struct arriving){SPAN_LIT(LIST), SIZE_MAX / 2}, LIST_LINES, 0);
	ehlo_rows(m);
	if (micro_row(m, "reply/written by us")) {
		micro_check(m, local_rounds(&own, 1) == 45 + '5', "it is written whole");
		micro_measure(m, (struct micro_size){"reply", 1, 0}, local_rounds, &own);
	}
}
