/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * See port.h. A slot's status word passes it to and fro: KERNEL (0) is the kernel's, with
 * TP_STATUS_USER set it holds a new frame, HELD is ours while the frame waits. Failures: of the
 * start, by words; a full ring is counted by the kernel; a send that fails is the caller's to
 * count.
 */
#include "bench/wire/port.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull
/* Neither free to the kernel nor new to us. */
#define HELD TP_STATUS_COPY
/* Before the frame in its slot: the ring's header and address, the offload header, alignment. */
#define SLOT_HEAD_BYTES 128
#define VLAN_TAG_BYTES 4
#define BLOCK_BYTES_MIN 65536
#define SEND_BUFFER_BYTES (16 << 20)

static struct tpacket2_hdr *slot_head(const struct port *p, uint32_t slot)
{
	return (struct tpacket2_hdr *)(void *)(p->ring + (size_t)slot * p->slot_bytes);
}

static bool set(int fd, int option, const void *value, socklen_t n)
{
	return setsockopt(fd, SOL_PACKET, option, value, n) == 0;
}

static bool set_int(int fd, int option, int value)
{
	return set(fd, option, &value, sizeof(value));
}

static bool mtu_of(struct port *p)
{
	struct ifreq r = {0};

	memcpy(r.ifr_name, p->name, MIN_OF(strlen(p->name), IFNAMSIZ - 1));
	if (ioctl(p->fd, SIOCGIFMTU, &r) != 0)
		return false;
	p->frame_max = (uint32_t)r.ifr_mtu + ETH_HLEN;
	return true;
}

static bool map_ring(struct port *p, uint64_t ring_bytes)
{
	uint32_t slot = 2048;

	while (slot < p->frame_max + VLAN_TAG_BYTES + SLOT_HEAD_BYTES)
		slot *= 2;
	uint32_t block = MAX_OF(slot, (uint32_t)BLOCK_BYTES_MIN);
	uint32_t blocks = (uint32_t)MAX_OF(ring_bytes / block, 1u);
	struct tpacket_req q = {.tp_block_size = block,
		.tp_block_nr = blocks,
		.tp_frame_size = slot,
		.tp_frame_nr = blocks * (block / slot)};
	p->ring_bytes = (size_t)block * blocks;
	p->slot_bytes = slot;
	p->slots = q.tp_frame_nr;
	if (!set(p->fd, PACKET_RX_RING, &q, sizeof(q)))
		return false;
	void *at = mmap(
		NULL, p->ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, p->fd, 0);
	if (at == MAP_FAILED)
		return false;
	p->ring = at;
	return true;
}

/* From here on frames come in: promiscuous, because they are not addressed to us. */
static bool listen_on(struct port *p, unsigned index)
{
	struct sockaddr_ll a = {.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_ALL),
		.sll_ifindex = (int)index};
	struct packet_mreq all = {.mr_ifindex = (int)index, .mr_type = PACKET_MR_PROMISC};

	return bind(p->fd, (struct sockaddr *)&a, sizeof(a)) == 0 &&
	       set(p->fd, PACKET_ADD_MEMBERSHIP, &all, sizeof(all));
}

bool port_open(struct port *p, const char *name, uint64_t ring_bytes, const char **why)
{
	int send_bytes = SEND_BUFFER_BYTES;

	*p = (struct port){.name = name, .fd = -1};
	*why = "no packet socket";
	/* Protocol 0: nothing comes in before bind(). */
	p->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (p->fd < 0)
		return false;
	*why = "no such interface";
	unsigned index = if_nametoindex(name);
	if (index == 0 || !mtu_of(p))
		goto fail;
	*why = "packet socket options";
	if (!set_int(p->fd, PACKET_VERSION, TPACKET_V2) || !set_int(p->fd, PACKET_VNET_HDR, 1) ||
		!set_int(p->fd, PACKET_IGNORE_OUTGOING, 1))
		goto fail;
	setsockopt(p->fd, SOL_SOCKET, SO_SNDBUFFORCE, &send_bytes, sizeof(send_bytes));
	*why = "no memory for its ring";
	if (!map_ring(p, ring_bytes))
		goto fail;
	*why = "cannot listen there";
	if (listen_on(p, index))
		return true;
fail:
	port_close(p);
	return false;
}

void port_close(struct port *p)
{
	int e = errno;

	if (p->ring)
		munmap(p->ring, p->ring_bytes);
	if (p->fd >= 0)
		close(p->fd);
	p->ring = NULL;
	p->fd = -1;
	errno = e;
}

struct iovec port_octets(const struct port *p, uint32_t slot)
{
	struct tpacket2_hdr *h = slot_head(p, slot);

	/* tpacket_rcv() puts the offload header right before the frame; packet_snd() takes both. */
	return (struct iovec){(uint8_t *)h + h->tp_mac - sizeof(struct virtio_net_hdr),
		h->tp_snaplen + sizeof(struct virtio_net_hdr)};
}

bool port_next(struct port *p, struct port_frame *f)
{
	struct tpacket2_hdr *h = slot_head(p, p->next);
	struct virtio_net_hdr offload;

	if (!(__atomic_load_n(&h->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
		return false;
	memcpy(&offload, port_octets(p, p->next).iov_base, sizeof(offload));
	*f = (struct port_frame){.arrival_ns = h->tp_sec * NS_PER_S + h->tp_nsec,
		.slot = p->next,
		.bytes = h->tp_len,
		.foreign = h->tp_len > p->frame_max || h->tp_snaplen < h->tp_len ||
			   offload.gso_type != VIRTIO_NET_HDR_GSO_NONE ||
			   (h->tp_status & TP_STATUS_VLAN_VALID)};
	h->tp_status = HELD;
	p->next = (p->next + 1) % p->slots;
	return true;
}

void port_release(struct port *p, uint32_t slot)
{
	ASSERT(slot < p->slots);
	__atomic_store_n(&slot_head(p, slot)->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
}

unsigned port_send(struct port *p, const struct iovec *frames, unsigned count)
{
	struct mmsghdr m[PORT_SEND_MAX] = {0};
	int n;

	ASSERT(count > 0 && count <= PORT_SEND_MAX);
	for (unsigned i = 0; i < count; i++) {
		m[i].msg_hdr.msg_iov = (struct iovec *)(uintptr_t)&frames[i];
		m[i].msg_hdr.msg_iovlen = 1;
	}
	do
		n = sendmmsg(p->fd, m, count, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	return n < 0 ? 0 : (unsigned)n;
}

void port_count_overruns(struct port *p)
{
	struct tpacket_stats s = {0};
	socklen_t n = sizeof(s);

	/* Reading them sets them back. */
	if (getsockopt(p->fd, SOL_PACKET, PACKET_STATISTICS, &s, &n) == 0)
		p->overruns += s.tp_drops;
}
