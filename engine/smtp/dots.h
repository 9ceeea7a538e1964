/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Dot stuffing (RFC 5321 4.5.2), both ways, over pieces of any size. Pure; any thread. Only CRLF
 * ends a line, as for the end of the data.
 */
#ifndef SMTP_DOTS_H
#define SMTP_DOTS_H

#include "ring/base.h"

/* Zeroed: at the start of a line. */
struct dots {
	uint8_t state;
};

/* One run of octets without a dot to be dropped: at most in.n, *out points into `in`. Returns the
 * octets of `in` that were dealt with; call again with the rest until none is left. The end of the
 * data (".CRLF") must not be in it. A dot at the start of a line is dropped whatever follows. */
size_t dots_strip(struct dots *d, struct span in, struct span *out);

/* The other way: *out is a run of `in`, and *dot says that one more dot goes before it. Returns the
 * octets dealt with. */
size_t dots_stuff(struct dots *d, struct span in, struct span *out, bool *dot);

/* Is the last line of what went through finished by CRLF (or was there nothing)? Else the end of the
 * data needs a CRLF first. */
bool dots_line_done(const struct dots *d);

#endif
