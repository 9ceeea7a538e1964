/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The header of a message (RFC 5322 2.2) as octets: where it ends, its fields one by one, and the
 * changes that milters know, made in place. What is not a header field stays as it is and where it
 * is; everything that is not changed keeps every octet. Pure; any thread.
 *
 * A header block is all octets up to and including the empty line; a message without an empty line
 * is all header. Lines end with CRLF (a lone LF or CR ends none, as everywhere in ringpost). A field
 * is a name of printable ASCII, blanks or none, and a colon (RFC 5322 4.5 has the blanks); lines
 * that begin with a blank continue the field before them. The first line that is neither ends the
 * header as if an empty line stood before it: the body begins with it (as Postfix and Sendmail have
 * it). So does a first line that begins with a blank: it continues nothing.
 * One line is in a block and no field: an mbox envelope, "From " at the very start. It stays first,
 * as servers take it for what it is only there.
 */
#ifndef SMTP_HEADER_H
#define SMTP_HEADER_H

#include "ring/base.h"

/* Looks for the end of a header block that comes in pieces. Zeroed. */
struct header_scan {
	uint8_t state;
	/* So many octets, the last of those that were counted, begin a line that may still turn out
	 * to be the body's first. With *done, or when nothing comes behind them, they are. */
	size_t undecided;
};
/* Counts octets of `in` as the header block's; *done: it ends there, or as many octets earlier as
 * s->undecided says. The block is the sum of all calls less `undecided` at the end, whatever the
 * pieces. Behind *done it counts nothing. */
size_t header_feed(struct header_scan *s, struct span in, bool *done);

struct header_field {
	struct span whole; /* with its line ends */
	struct span name;  /* without colon, and without blanks before the colon */
	struct span value; /* all behind the colon, without the last CRLF */
};
/* The next field; *rest starts as the whole block. False: there is none, and *rest is what is left:
 * the empty line, or nothing. */
bool header_next(struct span *rest, struct header_field *out);

/* Printable ASCII without a colon (RFC 5322 ftext), not empty. */
bool header_name_valid(struct span name);

/* A block in the caller's memory, p[0..n), room for `max`. */
struct header_block {
	uint8_t *p;
	size_t n, max;
};
/* Changes. `name` and `value` as in hook_edit: already judged, with CRLF between lines; neither lies
 * in the block. False: it does not fit, nothing was changed. Each counts the fields that are there
 * by then. Where a block's last line has no CRLF, one is put before a field that goes behind it.
 * A body that begins right behind a block without an empty line, and with a blank, would continue a
 * field that is put there: who joins the two puts an empty line between them (as Postfix does). */

/* With `index` fields before it; when there are fewer: append. */
bool header_insert(
	struct header_block *b, uint32_t index, struct span name, struct span value) MUST_USE;
/* Behind the last field, before the empty line if there is one. */
bool header_append(struct header_block *b, struct span name, struct span value) MUST_USE;
/* The index-th field of that name (any ASCII case), from 1, gets this value; its name stays as it is
 * written. When there is none: append. */
bool header_change(
	struct header_block *b, uint32_t index, struct span name, struct span value) MUST_USE;
void header_delete(struct header_block *b, uint32_t index, struct span name); /* none: nothing */

#endif
