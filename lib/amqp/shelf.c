/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include <mqfs/clock.h>
#include <mqfs/failpoint.h>

#include "looking_internal.h"
#include "publisher.h"
#include "topology.h"

/* What is held of one queue and place, and the browses that it is held for; looking.c tells why. */

/* Few enough that a settlement doesn't wait long behind them. */
#define GETS_AT_A_TIME 32
#define CONSUMER_TAG "mqfs-looks"

/* ---- browses ---- */

/* What it got is stale. */
static void browse_forget(struct browse *browse)
{
	for (size_t i = 0; i < browse->count; i++)
		mqfs_delivery_unref(browse->deliveries[i]);
	browse->count = 0;
}

void browse_free(struct browse *browse)
{
	browse_forget(browse);
	free(browse->deliveries);
	free(browse->queue);
	free(browse);
}

/* The references pass on. */
static void browse_answer(struct browse *browse, int result)
{
	mqfs_browse_fn *done = browse->done;
	size_t count = result == 0 ? browse->count : 0;

	browse->done = NULL;
	if (!done)
		return;
	if (result == 0)
		browse->count = 0;
	done(browse->arg, result, browse->deliveries, count);
}

void browse_fail(struct job *job, int result, const char *reason)
{
	struct browse *browse = (struct browse *)job;

	(void)reason;
	browse_answer(browse, result);
	browse_free(browse);
}

static void source(const struct browse *browse, mqfs_name_t ret_name)
{
	if (browse->place == MQFS_PLACE_DEAD)
		mqfs_name_dead_queue(browse->queue, ret_name);
	else
		mqfs_name_delay_queue(browse->queue, browse->levels[browse->level], ret_name);
}

/* ---- shelves ---- */

static void shelf_key(enum mqfs_place place, const char *queue, char key[SHELF_KEY_BYTES])
{
	key[0] = place == MQFS_PLACE_DEAD ? 'd' : 'r';
	key[1] = ':';
	strncpy(key + 2, queue, SHELF_KEY_BYTES - 3);
	key[SHELF_KEY_BYTES - 1] = '\0';
}

static const char *queue_of(const struct shelf *shelf)
{
	return shelf->key + 2;
}

static enum mqfs_place place_of(const struct shelf *shelf)
{
	return shelf->key[0] == 'd' ? MQFS_PLACE_DEAD : MQFS_PLACE_RETRY;
}

struct shelf *shelf_get(struct looking *looking, enum mqfs_place place, const char *queue)
{
	char key[SHELF_KEY_BYTES];
	struct shelf *shelf;

	shelf_key(place, queue, key);
	HASH_FIND(by_key, looking->shelves, key, strlen(key), shelf);
	if (shelf)
		return shelf;
	shelf = calloc(1, sizeof(*shelf));
	if (!shelf)
		return NULL;
	memcpy(shelf->key, key, sizeof(key));
	HASH_ADD(by_key, looking->shelves, key, strlen(shelf->key), shelf);
	if (!shelf->by_key.tbl) {
		free(shelf);
		return NULL;
	}
	return shelf;
}

void shelf_fail(struct looking *looking, struct shelf *shelf, int result)
{
	struct browse *browse;

	holder_close(&looking->settling, &shelf->holder);
	mqfs_delivery_unref(shelf->spare);
	while ((browse = shelf->browses)) {
		DL_DELETE(shelf->browses, browse);
		browse_forget(browse);
		browse_answer(browse, result);
		browse_free(browse);
	}
	HASH_DELETE(by_key, looking->shelves, shelf);
	free(shelf);
}

/* Tells everybody that the queue is in use. Its message, if any, is sent before the first get is answered. */
static int shelf_consume(struct looking *looking, const struct shelf *shelf, const char *dead)
{
	struct connection *connection = looking->connection;
	int r;

	connection_arm_call(connection);
	amqp_basic_qos(connection->state, shelf->holder.channel, 0, 1, 0);
	r = connection_called(connection, shelf->holder.channel);
	if (r < 0)
		return r;
	connection_arm_call(connection);
	amqp_basic_consume(connection->state, shelf->holder.channel, amqp_cstring_bytes(dead),
	                   amqp_cstring_bytes(CONSUMER_TAG), 0, 0, 0, amqp_empty_table);
	return connection_called(connection, shelf->holder.channel);
}

int shelf_open(struct looking *looking, struct shelf *shelf, const struct browse *browse)
{
	amqp_channel_t channel;
	mqfs_name_t dead;
	int r;

	if (shelf->holder.channel)
		return 0;
	r = connection_channel_open(looking->connection, &channel);
	if (r < 0)
		return r;
	r = holder_open(&looking->settling, &shelf->holder, channel, atomic_fetch_add(looking->generations, 1) + 1);
	if (r < 0) {
		connection_channel_close(looking->connection, channel);
		return r;
	}
	mqfs_name_dead_queue(browse->queue, dead);
	if (browse->place != MQFS_PLACE_DEAD || topology_counts(looking->topology, dead))
		return 0;
	return shelf_consume(looking, shelf, dead);
}

/* ---- serving its browses ---- */

static bool browse_take(struct shelf *shelf, struct browse *browse, struct mqfs_delivery *delivery)
{
	if (!browse->done || browse->count == browse->limit)
		return false;
	if (!browse->deliveries)
		browse->deliveries = calloc(browse->limit, sizeof(*browse->deliveries));
	if (!browse->deliveries || holder_hold(&shelf->holder, delivery->tag, NULL) < 0)
		return false;
	browse->deliveries[browse->count++] = delivery;
	FAILPOINT(amqp_look_got);
	return true;
}

static void send_get(struct looking *looking, struct shelf *shelf, struct browse *browse)
{
	struct connection *connection = looking->connection;
	amqp_basic_get_t get = {0};
	mqfs_name_t name;

	source(browse, name);
	get.queue = amqp_cstring_bytes(name);
	browse->asked++;
	connection_arm_call(connection);
	connection_sent(connection,
	                amqp_send_method(connection->state, shelf->holder.channel, AMQP_BASIC_GET_METHOD, &get));
	connection_expect(connection, true);
}

/* Goes on with the first browse as far as it can. true: it is through. */
static bool browse_continue(struct looking *looking, struct shelf *shelf, struct browse *browse)
{
	if (shelf->spare && browse_take(shelf, browse, shelf->spare))
		shelf->spare = NULL;
	if (browse->exhausted && browse->asked == 0) {
		browse->exhausted = false;
		browse->level++;
	}
	if (!browse->done || browse->level == browse->levels_count || browse->count == browse->limit)
		return browse->asked == 0;
	while (!browse->exhausted && browse->asked < GETS_AT_A_TIME && browse->count + browse->asked < browse->limit)
		send_get(looking, shelf, browse);
	return false;
}

void shelf_continue(struct looking *looking, struct shelf *shelf)
{
	struct browse *browse;

	while ((browse = shelf->browses) && !looking->connection->failed) {
		if (!browse_continue(looking, shelf, browse))
			return;
		DL_DELETE(shelf->browses, browse);
		browse_answer(browse, 0);
		browse_free(browse);
	}
}

void shelf_receive(struct looking *looking, struct shelf *shelf, struct frame_content *content)
{
	struct browse *browse = shelf->browses;
	struct mqfs_delivery *delivery;
	bool got = content->kind == FRAME_GET;

	if ((got && (!browse || browse->asked == 0)) || (!got && shelf->spare))
		return;
	if (got)
		browse->asked--;
	delivery = holder_delivery(&shelf->holder, content, queue_of(shelf), place_of(shelf));
	if (delivery && !got) {
		shelf->spare = delivery;
	} else if (!delivery || !browse_take(shelf, browse, delivery)) {
		mqfs_delivery_unref(delivery);
		holder_decline(&looking->settling, content->channel, content->tag);
	}
}

void shelf_expire(struct shelf *shelf, int64_t now_ms, int64_t *due_ms)
{
	struct browse *browse;

	DL_FOREACH(shelf->browses, browse)
	{
		if (!browse->done)
			continue;
		if (browse->job.deadline_ms <= now_ms)
			browse_answer(browse, browse->count > 0 ? 0 : -ETIMEDOUT);
		else if (browse->job.deadline_ms < *due_ms)
			*due_ms = browse->job.deadline_ms;
	}
}
