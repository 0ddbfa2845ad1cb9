/* SPDX-License-Identifier: MIT */
#include <mqfs/message.h>

#include <mqfs/clock.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/*
 * UUIDv7 (RFC 9562, 5.7): 48 bits of milliseconds, version, 12 bits that count within a millisecond (6.2, method 1),
 * variant, 62 random bits. The pair of time and count only ever grows, also when the clock steps back or more than 4096
 * are asked for in a millisecond: then the time runs ahead of the clock for a moment.
 */

/* getrandom(2) gives up to 256 bytes at once, and is not interrupted. */
#define POOL_WORDS (256 / sizeof(uint64_t))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards what follows */
static uint64_t pool[POOL_WORDS];
static size_t pool_left;
static uint64_t last; /* milliseconds << 12 | count */

static pthread_once_t once = PTHREAD_ONCE_INIT;

/* A child must not hand out the random numbers that its parent hands out too. */
static void forget_pool(void)
{
	pool_left = 0;
}

static void watch_forks(void)
{
	pthread_atfork(NULL, NULL, forget_pool);
}

static uint64_t random_word(void)
{
	if (pool_left == 0) {
		/* It can fail only where the kernel has no such call: there is no safe way to go on. */
		if (getrandom(pool, sizeof(pool), 0) != (ssize_t)sizeof(pool))
			abort();
		pool_left = POOL_WORDS;
	}
	return pool[--pool_left];
}

static char *put_hex(char *to, uint64_t value, unsigned digits)
{
	static const char hex[] = "0123456789abcdef";

	while (digits-- > 0)
		*to++ = hex[value >> (4 * digits) & 15];
	return to;
}

char *mqfs_uuid(char buffer[MQFS_UUID_BYTES])
{
	uint64_t now = (uint64_t)(mqfs_clock_realtime_us() / 1000) << 12;
	uint64_t stamp, random;
	char *to = buffer;

	pthread_once(&once, watch_forks);
	pthread_mutex_lock(&lock);
	last = now > last ? now : last + 1;
	stamp = last;
	random = random_word();
	pthread_mutex_unlock(&lock);

	to = put_hex(to, stamp >> 28, 8);
	*to++ = '-';
	to = put_hex(to, stamp >> 12, 4);
	*to++ = '-';
	to = put_hex(to, 0x7000 | (stamp & 0xfff), 4);
	*to++ = '-';
	to = put_hex(to, 0x8000 | (random >> 48 & 0x3fff), 4);
	*to++ = '-';
	to = put_hex(to, random, 12);
	*to = '\0';
	return buffer;
}
