/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Lines. The only end of a command line is CRLF (RFC 5321 2.3.8); a bare LF is told apart, not
 * hidden, because the server behind may read it otherwise. Cannot fail: over-long is a result.
 */
#include "engine/smtp/line.h"

enum line_res smtp_line(struct span in, size_t *seen, size_t max, struct span *line, size_t *next)
{
	size_t limit = MIN_OF(in.n, max), from = *seen, end;
	const uint8_t *lf = NULL;

	ASSERT(*seen <= in.n); /* max may have shrunk: an AUTH exchange that ended */
	if (limit > from)
		lf = memchr(in.p + from, '\n', limit - from);
	*line = span_of(in.p, 0);
	*next = 0;
	if (!lf && in.n < max) {
		*seen = in.n;
		return LINE_MORE;
	}
	*seen = 0;
	if (!lf)
		return LINE_LONG;
	end = (size_t)(lf - in.p);
	*next = end + 1;
	if (end > 0 && in.p[end - 1] == '\r') {
		line->n = end - 1;
		return LINE_OK;
	}
	line->n = end;
	return LINE_BARE_LF;
}

bool smtp_line_clean(struct span line)
{
	for (size_t i = 0; i < line.n; i++) {
		uint8_t c = line.p[i];

		if ((c < ' ' && c != '\t') || c == 127)
			return false;
	}
	return true;
}
