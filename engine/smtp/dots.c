/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Dot stuffing: see dots.h. Both ways look for the same thing, a dot at the start of a line, and
 * differ in what they do about it. memchr() finds the line ends: a run goes on until a line begins
 * with a dot, so most pieces are one run. Nothing is kept but the state; nothing can fail.
 */
#include "engine/smtp/dots.h"

enum dots_state {
	LINE, /* at the start of a line */
	TEXT,
	CR, /* behind a CR */
};

/* Does p[at] end a line? Before the piece there was `state`. */
static inline bool ends_line(uint8_t state, const uint8_t *p, size_t at)
{
	return p[at] == '\n' && (at > 0 ? p[at - 1] == '\r' : state == CR);
}

static inline bool dot_first(const struct dots *d, struct span in)
{
	return d->state == LINE && in.n > 0 && in.p[0] == '.';
}

/* Octets up to the next line that begins with a dot, one at in.p[0] left aside. */
static size_t run(struct dots *d, struct span in)
{
	size_t at = 0;

	while (at < in.n) {
		const uint8_t *lf = memchr(in.p + at, '\n', in.n - at);

		if (!lf)
			break;
		at = (size_t)(lf - in.p) + 1;
		if (at < in.n && in.p[at] == '.' && ends_line(d->state, in.p, at - 1)) {
			d->state = LINE;
			return at;
		}
	}
	if (in.n > 0 && ends_line(d->state, in.p, in.n - 1))
		d->state = LINE;
	else if (in.n > 0)
		d->state = in.p[in.n - 1] == '\r' ? CR : TEXT;
	return in.n;
}

size_t dots_strip(struct dots *d, struct span in, struct span *out)
{
	size_t skip = dot_first(d, in), n = run(d, in);

	*out = span_of(in.p + skip, n - skip);
	return n;
}

size_t dots_stuff(struct dots *d, struct span in, struct span *out, bool *dot)
{
	size_t n;

	*dot = dot_first(d, in);
	n = run(d, in);
	*out = span_of(in.p, n);
	return n;
}

bool dots_line_done(const struct dots *d)
{
	return d->state == LINE;
}
