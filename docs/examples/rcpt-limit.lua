-- SPDX-License-Identifier: GPL-3.0-or-later
--
-- Recipients per sender and hour. Beyond the limit a recipient is told to come later; the message
-- goes on with those it has. A sender is who has authenticated himself, else the address of MAIL,
-- else (for bounces) the client.
--
-- Options: limit (500), window in seconds (3600), senders (10000).
--
-- The window slides: what was counted in the window before counts for the part of it that is still
-- less than a window ago. Each worker has a state of its own and counts for itself: whoever comes to
-- all of N workers may get N times the limit.

local defaults = {limit = 500, window = 3600, senders = 10000}
local set = {}

-- Two generations of at most `senders` entries each: when the young one is full it becomes the old
-- one, and who is not heard of meanwhile is forgotten. So memory is bounded, whoever comes.
local young, old, count = {}, {}, 0

local later = ringpost.tempfail{code = 450, enhanced = "4.7.1",
	text = "too many recipients in a short time, try again later"}

-- Returns nothing, or why ringpost should not start.
function open(options)
	for name in pairs(options) do
		if not defaults[name] then
			return "there is no option `" .. name .. "`: limit, window and senders are all"
		end
	end
	for name, default in pairs(defaults) do
		local value = options[name] == nil and default or math.tointeger(tonumber(options[name]))
		if not value or value < 1 then
			return "option `" .. name .. "` has to be a whole number, 1 at least"
		end
		set[name] = value
	end
end

-- Of this sender: the number of its window, recipients in it, recipients in the one before.
local function entry_of(sender)
	local e = young[sender]
	if e then
		return e
	end
	if count == set.senders then
		young, old, count = {}, young, 0
	end
	e = old[sender] or {0, 0, 0}
	young[sender] = e
	count = count + 1
	return e
end

function rcpt(ev)
	local sender = ev.identity or ev.sender:lower()
	if sender == "" then
		sender = ev.client
	end
	local e, now = entry_of(sender), ringpost.monotonic()
	local window = now // set.window
	if e[1] ~= window then
		e[3] = e[1] == window - 1 and e[2] or 0
		e[1], e[2] = window, 0
	end
	if e[2] + e[3] * (1 - now % set.window / set.window) >= set.limit then
		return later
	end
	e[2] = e[2] + 1
end
