/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Bodies and their ends: octets of DATA and BDAT as they come, what is kept of a message when
 * somebody will look at it, and the reply to the whole. RFC 5321 4.5.2 (the scanner finds the end),
 * 3030 (a chunk is its count; swallowed when refused).
 *
 * A message that cannot be stored is answered 452; one that is too big is read to its end and
 * answered 552.
 */
#include "bench/sink/sink_int.h"

bool message_open(struct sess *s)
{
	struct sink *k = s->sink;

	if (!k->looks)
		return true;
	/* The hash of the whole content is only ever printed. */
	s->keep = keep_new(k->store_dir ? &k->store : NULL, k->hash && k->print, k->hash);
	return s->keep != NULL;
}

/* Body octets as they came; `dots`: dot-stuffed, with the final dot. */
static void body_octets(struct sess *s, struct span in, bool dots)
{
	s->bytes += in.n;
	if (s->sink->size_max && s->bytes > s->sink->size_max + 5)
		s->too_big = true;
	if (!s->keep || s->too_big)
		return;
	keep_body(s->keep, in, dots);
}

static void print_message(struct sess *s)
{
	struct keep *m = s->keep;
	struct json j;

	json_open(&j, stdout, NULL);
	json_str(&j, "ev", SPAN_LIT("message"));
	json_u64(&j, "n", s->sink->n.messages);
	json_u64(&j, "session", s->number);
	keep_print_envelope(&j, m);
	json_str(&j, "body", s->chunked ? SPAN_LIT("bdat") : SPAN_LIT("data"));
	json_u64(&j, "bytes", m->content.bytes);
	if (s->sink->hash)
		json_hex(&j, "hash", m->content.hash_all);
	if (m->content.id[0])
		json_str(&j, "id", span_str(m->content.id));
	if (s->sink->hash)
		json_str(&j, "check", span_str(content_check_words[content_verdict(&m->content)]));
	if (m->store)
		json_u64(&j, "file", m->file.number);
	json_close(&j);
	putchar('\n');
	s->sink->printed = true;
}

void message_reset(struct sess *s)
{
	keep_free(s->keep);
	s->keep = NULL;
	s->mail = s->chunked = s->last = s->binary = s->swallow = s->too_big = s->spared = false;
	s->rcpts = 0;
	s->bytes = 0;
}

/* The message is the sink's now. False: it could not be stored. */
static bool take_message(struct sess *s)
{
	struct sink *k = s->sink;
	struct keep *m = s->keep;

	if (m && !keep_commit(m)) {
		k->n.store_failed++;
		return false;
	}
	k->n.messages++;
	k->n.recipients += s->rcpts;
	/* Nobody looked at it: as on the wire, less the final dot. */
	k->n.bytes += m ? m->content.bytes : s->bytes - (s->chunked ? 0 : 3);
	if (m && k->hash) {
		enum content_check c = content_verdict(&m->content);

		k->n.hash_ok += c == CHECK_OK;
		k->n.hash_bad += c == CHECK_BAD;
		k->n.hash_none += c == CHECK_NONE;
	}
	if (m && k->print)
		print_message(s);
	return true;
}

static bool message_too_big(const struct sess *s)
{
	/* On the wire a DATA body has its stuffing and the dot: what was kept counts, where it was
	 * kept. */
	uint64_t bytes = s->keep ? s->keep->content.bytes : s->bytes;

	return s->too_big ||
	       (s->sink->size_max && bytes > s->sink->size_max + (s->keep || s->chunked ? 0 : 5));
}

void message_end(struct sess *s)
{
	enum decision d = rule_decide(s, AT_DOT);

	if (d == DECIDE_WAIT || d == DECIDE_GONE)
		return;
	s->phase = PH_COMMAND;
	if (message_too_big(s)) {
		s->sink->n.refused++;
		REFUSE(s, "552 5.3.4 message too big");
	} else if (d == DECIDE_REPLY && s->sink->rule[AT_DOT].code >= 300) {
		s->sink->n.refused++;
		rule_say(s, AT_DOT);
	} else if (!take_message(s)) {
		REFUSE(s, "452 4.3.1 cannot store the message");
	} else if (d == DECIDE_REPLY) {
		rule_say(s, AT_DOT);
	} else {
		SAY(s, "250 2.0.0 taken");
	}
	message_reset(s);
}

void chunk_end(struct sess *s)
{
	enum said said = rule_answer(s, AT_BDAT, SPAN_LIT("250 2.0.0 chunk taken\r\n"));

	if (said == SAID_WAIT)
		return;
	s->phase = PH_COMMAND;
	if (said == SAID_NO)
		message_reset(s); /* RFC 3030 2: what follows is answered 503 until RSET or MAIL */
}

void chunk_complete(struct sess *s)
{
	if (s->swallow) {
		s->swallow = false;
		s->phase = PH_COMMAND;
	} else {
		s->phase = s->last ? PH_END : PH_CHUNK_END;
	}
}

size_t data_eat(struct sess *s, struct span in)
{
	struct scan_step step;

	scan_feed(&s->scan, in, &step);
	body_octets(s, span_of(in.p, step.used), true);
	if (!rule_body_goes_on(s))
		return step.used;
	if (step.end == SCAN_DONE)
		s->phase = PH_END;
	return step.used;
}

size_t chunk_eat(struct sess *s, struct span in)
{
	size_t n = MIN_OF(s->left, in.n);

	s->left -= n;
	if (!s->swallow) {
		body_octets(s, span_of(in.p, n), false);
		if (!rule_body_goes_on(s))
			return n;
	}
	if (s->left == 0)
		chunk_complete(s);
	return n;
}
