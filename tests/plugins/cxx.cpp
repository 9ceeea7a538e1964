/* SPDX-License-Identifier: 0BSD
 *
 * A plugin in C++17: the header serves it, and its descriptor is found. Refuses bounces, renames
 * old@b.example, counts senders.
 */
#include <ringpost.h>

#include <string_view>

namespace
{
const ringpost_host *host;
int senders;

constexpr ringpost_span span(std::string_view s)
{
	return {s.data(), s.size()};
}

constexpr ringpost_change renamed[] = {
	{RINGPOST_CHANGE_ADDRESS, 0, span(""), span("new@b.example")},
	{RINGPOST_INSERT_HEADER, 0, span("X-Was"), span("old@b.example")}};

int open_it(const ringpost_host *of, const ringpost_option *, size_t, void **self, char *, size_t)
{
	host = of;
	senders = host->counter(host->handle, "senders");
	*self = nullptr;
	return 0;
}

uint32_t event(void *, const ringpost_event *ev, ringpost_answer *answer)
{
	if (ev->kind != RINGPOST_MAIL)
		return RINGPOST_PASS;
	host->count(host->handle, senders, 1);
	if (std::string_view(ev->address.data, ev->address.size) == "old@b.example") {
		answer->changes = renamed;
		answer->change_count = sizeof(renamed) / sizeof(renamed[0]);
	}
	if (ev->address.size != 0)
		return RINGPOST_PASS;
	answer->text = "no bounces here";
	return RINGPOST_REJECT;
}
} // namespace

const struct ringpost_plugin ringpost_plugin = {RINGPOST_ABI, sizeof(struct ringpost_plugin), "cxx",
	0, RINGPOST_ON(RINGPOST_MAIL), open_it, nullptr, event};
