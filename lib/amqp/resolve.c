/* SPDX-License-Identifier: MIT */
#include "resolve.h"

#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include <mqfs/clock.h>

/*
 * getaddrinfo() has no deadline, and can't be ended: with name servers that don't answer it takes half a minute and
 * more. So it runs on a thread of its own, which is left behind when it takes too long, and frees what it found when
 * nobody waits for it any more. There are never many of these.
 */

#define LOOKUPS_MAX 8

struct lookup {
	pthread_mutex_t lock; /* guards all below */
	pthread_cond_t done;
	bool finished;
	bool abandoned; /* whoever comes last frees it */
	int result;     /* of getaddrinfo */
	struct addrinfo *found;
	char name[]; /* constant */
};

static atomic_int lookups;

static const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};

static void lookup_free(struct lookup *lookup)
{
	if (lookup->found)
		freeaddrinfo(lookup->found);
	pthread_cond_destroy(&lookup->done);
	pthread_mutex_destroy(&lookup->lock);
	free(lookup);
}

static void *look_up(void *arg)
{
	struct lookup *lookup = arg;
	struct addrinfo *found = NULL;
	int result = getaddrinfo(lookup->name, NULL, &hints, &found);
	bool abandoned;

	pthread_mutex_lock(&lookup->lock);
	lookup->result = result;
	lookup->found = result == 0 ? found : NULL;
	lookup->finished = true;
	abandoned = lookup->abandoned;
	pthread_cond_signal(&lookup->done);
	pthread_mutex_unlock(&lookup->lock);
	atomic_fetch_sub(&lookups, 1);
	if (abandoned)
		lookup_free(lookup);
	return NULL;
}

static struct lookup *lookup_new(const char *name)
{
	size_t bytes = strlen(name) + 1;
	struct lookup *lookup = calloc(1, sizeof(*lookup) + bytes);
	pthread_condattr_t attributes;

	if (!lookup)
		return NULL;
	memcpy(lookup->name, name, bytes);
	pthread_mutex_init(&lookup->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&lookup->done, &attributes);
	pthread_condattr_destroy(&attributes);
	return lookup;
}

static int lookup_start(struct lookup *lookup)
{
	pthread_attr_t attributes;
	pthread_t thread;
	int r;

	if (atomic_fetch_add(&lookups, 1) >= LOOKUPS_MAX) {
		atomic_fetch_sub(&lookups, 1);
		return -EAGAIN;
	}
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	r = -pthread_create(&thread, &attributes, look_up, lookup);
	pthread_attr_destroy(&attributes);
	if (r < 0)
		atomic_fetch_sub(&lookups, 1);
	return r;
}

/* true: it has finished, and is the caller's again. */
static bool lookup_wait(struct lookup *lookup, int64_t deadline_ms)
{
	struct timespec deadline = {.tv_sec = deadline_ms / 1000, .tv_nsec = deadline_ms % 1000 * 1000000};
	bool finished;
	int r = 0;

	pthread_mutex_lock(&lookup->lock);
	while (!lookup->finished && r == 0)
		r = pthread_cond_timedwait(&lookup->done, &lookup->lock, &deadline);
	finished = lookup->finished;
	lookup->abandoned = !finished;
	pthread_mutex_unlock(&lookup->lock);
	return finished;
}

static int to_errno(int result)
{
	switch (result) {
	case 0:
		return 0;
	case EAI_MEMORY:
		return -ENOMEM;
	case EAI_AGAIN:
		return -ETIMEDOUT;
	default:
		return -ENOENT;
	}
}

static int copy(const struct addrinfo *found, resolve_address_t addresses[RESOLVE_ADDRESSES_MAX], size_t *ret_count)
{
	size_t count = 0;

	for (; found && count < RESOLVE_ADDRESSES_MAX; found = found->ai_next)
		if (getnameinfo(found->ai_addr, found->ai_addrlen, addresses[count], sizeof(resolve_address_t), NULL, 0,
		                NI_NUMERICHOST) == 0)
			count++;
	*ret_count = count;
	return count > 0 ? 0 : -ENOENT;
}

int resolve_host(const char *name, int64_t deadline_ms, resolve_address_t ret_addresses[RESOLVE_ADDRESSES_MAX],
                 size_t *ret_count)
{
	struct lookup *lookup = lookup_new(name);
	int r = lookup ? lookup_start(lookup) : -ENOMEM;

	if (r < 0) {
		if (lookup)
			lookup_free(lookup);
		return r;
	}
	if (!lookup_wait(lookup, deadline_ms))
		return -ETIMEDOUT;
	r = to_errno(lookup->result);
	if (r == 0)
		r = copy(lookup->found, ret_addresses, ret_count);
	lookup_free(lookup);
	return r;
}
