/* SPDX-License-Identifier: 0BSD
 *
 * A plugin in C++17: the header serves it, and its descriptor is found.
 */
#include <ringpost.h>

namespace
{
int open_it(const ringpost_host *, const ringpost_option *, size_t, void **self, char *, size_t)
{
	*self = nullptr;
	return 0;
}

uint32_t event(void *, const ringpost_event *ev, ringpost_answer *answer)
{
	if (ev->kind != RINGPOST_MAIL || ev->address.size != 0)
		return RINGPOST_PASS;
	answer->text = "no bounces here";
	return RINGPOST_REJECT;
}
} // namespace

const struct ringpost_plugin ringpost_plugin = {RINGPOST_ABI, sizeof(struct ringpost_plugin), "cxx",
	0, RINGPOST_ON(RINGPOST_MAIL), open_it, nullptr, event};
