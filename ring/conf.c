/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The shape a ring has unless its owner says otherwise: the same for both implementations of
 * ring.h.
 */
#include "ring/ring.h"

void ring_conf_defaults(struct ring_conf *c)
{
	*c = (struct ring_conf){
		.sq_entries = 1024,
		.cq_entries = 8192,
		.ops_max = 65536,
		.buf_count = 16,
		.buf_bytes = 256u << 10,
		.pipe_count_max = 64,
		.pipe_bytes = 1u << 20,
		.zc_count = 0,
		.zc_bytes = 64u << 10,
	};
}
