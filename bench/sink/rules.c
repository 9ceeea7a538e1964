/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What --delay-POINT, --drop POINT and --reply POINT= say about a moment of a session, and the
 * replies of that moment. The dice are xorshift64*: the same with the same --seed. Cannot fail.
 */
#include "bench/sink/sink_int.h"

const char *const point_names[POINT_COUNT] = {
#define X(id, name, text) name,
	POINTS(X)
#undef X
};

enum point rule_find(const char *name, size_t n)
{
	unsigned p = 0;

	while (p < POINT_COUNT &&
		(strlen(point_names[p]) != n || memcmp(point_names[p], name, n) != 0))
		p++;
	return (enum point)p;
}

void refuse(struct sess *s, struct span text)
{
	s->sink->n.errors++;
	say(s, text);
}

void finish(struct sess *s)
{
	s->over = true;
	stream_finish(&s->st);
}

static bool dice(struct sink *k, double share)
{
	if (share >= 1)
		return true;
	k->dice ^= k->dice >> 12;
	k->dice ^= k->dice << 25;
	k->dice ^= k->dice >> 27;
	return (double)((k->dice * 0x2545f4914f6cdd1dull) >> 11) / 9007199254740992.0 < share;
}

static void pause_for(struct sess *s, uint64_t ms)
{
	s->paused = true;
	timer_set(&s->sink->rig.timers, &s->timer, rig_now_ms(&s->sink->rig) + ms);
}

static void hang_up(struct sess *s)
{
	s->sink->n.dropped++;
	s->over = true;
	if (s->sink->drop_reset)
		stream_reset(&s->st);
	else
		stream_finish(&s->st);
}

enum decision rule_decide(struct sess *s, enum point p)
{
	const struct point_rule *r = &s->sink->rule[p];

	if (r->delay_ms && !s->waited) {
		pause_for(s, r->delay_ms);
		return DECIDE_WAIT;
	}
	s->waited = false;
	if (r->drop && dice(s->sink, s->sink->drop_share)) {
		hang_up(s);
		return DECIDE_GONE;
	}
	if (r->code && dice(s->sink, s->sink->reply_share))
		return DECIDE_REPLY;
	return DECIDE_USUAL;
}

bool rule_say(struct sess *s, enum point p)
{
	const struct point_rule *r = &s->sink->rule[p];

	say(s, span_str(r->reply));
	if (r->code == 421)
		finish(s);
	if (r->code >= 400)
		s->sink->n.errors++;
	return r->code < 400;
}

enum said rule_answer(struct sess *s, enum point p, struct span usual)
{
	switch (rule_decide(s, p)) {
	case DECIDE_WAIT:
	case DECIDE_GONE:
		return SAID_WAIT;
	case DECIDE_REPLY:
		return rule_say(s, p) ? SAID_YES : SAID_NO;
	case DECIDE_USUAL:
		break;
	}
	say(s, usual);
	return SAID_YES;
}

bool rule_body_goes_on(struct sess *s)
{
	const struct point_rule *r = &s->sink->rule[AT_BODY];

	if (!r->drop || s->swallow || s->bytes < s->sink->drop_after)
		return true;
	if (s->spared)
		return true;
	s->spared = !dice(s->sink, s->sink->drop_share);
	if (!s->spared)
		hang_up(s);
	return !s->over;
}
