/* SPDX-License-Identifier: MIT */
#ifndef MQFS_AMQP_RESOLVE_H
#define MQFS_AMQP_RESOLVE_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>

#define RESOLVE_ADDRESSES_MAX 8

/* With room for an IPv6 address's zone. */
typedef char resolve_address_t[INET6_ADDRSTRLEN + 32];

/*
 * The addresses of a host name as text, in the order in which they are to be tried, at most RESOLVE_ADDRESSES_MAX.
 * Blocks, but no longer than deadline_ms (monotonic). Any thread. 0 with *ret_count >= 1; -ENOENT: there is no
 * such host; -ETIMEDOUT: not known in time; -EAGAIN: too many others wait for names already; -ENOMEM.
 */
int resolve_host(const char *name, int64_t deadline_ms, resolve_address_t ret_addresses[RESOLVE_ADDRESSES_MAX],
                 size_t *ret_count);

#endif
