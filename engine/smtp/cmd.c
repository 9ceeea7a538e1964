/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Verbs and the arguments that change how octets are framed (BDAT, AUTH). Paths and their
 * parameters are in path.c. Pure; what cannot be read is false, and the caller refuses it: a line
 * that two servers could read in two ways must not reach one of them.
 */
#include "engine/smtp/cmd.h"

#include "engine/smtp/octets.h"

#define SYNC SMTP_F_SYNC
#define MAILS SMTP_F_MAILS
#define ENDS SMTP_F_ENDS
#define REFUSE SMTP_F_REFUSE
#define JUNK SMTP_F_JUNK
#define EARLY SMTP_F_EARLY

/* SMTP_OTHER: nobody knows what it changes, so what follows it waits (RFC 2920 3.1). */
static const struct {
	struct span word;
	const char *name;
	unsigned flags;
} verbs[SMTP_VERB_COUNT] = {
#define X(id, verb, flags, rfc) [id] = {{(const uint8_t *)(verb), sizeof(verb) - 1}, verb, flags},
#include "engine/smtp/verbs.def"
#undef X
	[SMTP_OTHER] = {{NULL, 0}, "other", SYNC | JUNK},
};

unsigned smtp_verb_flags(enum smtp_verb v)
{
	ASSERT((unsigned)v < SMTP_VERB_COUNT);
	return verbs[v].flags;
}

const char *smtp_verb_name(enum smtp_verb v)
{
	ASSERT((unsigned)v < SMTP_VERB_COUNT);
	return verbs[v].name;
}

static enum smtp_verb find_verb(struct span word)
{
	for (unsigned v = 0; v < SMTP_OTHER; v++)
		if (span_ieq(word, verbs[v].word))
			return (enum smtp_verb)v;
	return SMTP_OTHER;
}

bool smtp_cmd_parse(struct span line, struct smtp_cmd *out)
{
	struct span rest = line;

	*out = (struct smtp_cmd){.verb = SMTP_OTHER};
	if (line.n == 0 || !octet_is(line.p[0], OCTET_ALPHA))
		return false;
	out->word = span_take_word(&rest);
	out->args = span_trim(rest);
	out->verb = find_verb(out->word);
	return true;
}

bool smtp_bdat_parse(struct span args, uint64_t *size, bool *last)
{
	struct span rest = args, number = span_take_word(&rest), word = span_take_word(&rest);

	*last = word.n != 0;
	if (word.n != 0 && !span_ieq(word, SPAN_LIT("LAST")))
		return false;
	if (span_trim(rest).n != 0)
		return false;
	return span_number(number, SMTP_BDAT_BYTES_MAX, size);
}

bool smtp_auth_parse(struct span args, struct span *mechanism, bool *initial)
{
	struct span rest = args, response;

	*mechanism = span_take_word(&rest);
	response = span_take_word(&rest);
	*initial = response.n != 0;
	if (mechanism->n == 0 || mechanism->n > SMTP_MECHANISM_BYTES_MAX)
		return false;
	for (size_t i = 0; i < mechanism->n; i++)
		if (!octet_is(mechanism->p[i], OCTET_KEYWORD) && mechanism->p[i] != '_')
			return false;
	return span_trim(rest).n == 0;
}
