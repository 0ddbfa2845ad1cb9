/* SPDX-License-Identifier: MIT */
#include "looking.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "hash.h"
#include <utlist.h>

#include <mqfs/clock.h>
#include <mqfs/failpoint.h>
#include <mqfs/name.h>
#define LOG_TOPIC "amqp.looking"
#include <mqfs/log.h>

#include "known.h"
#include "publisher.h"
#include "topology.h"

/*
 * A browse asks topology which queues of the place hold anything (a basic.get from one that isn't there costs
 * the channel), then gets from one after the other, several gets on their way at a time. What it got is
 * held in the shelf's channel: there is a shelf for each queue and place, so that a channel that the
 * broker closes takes no other's messages along. It is closed when nothing is held any more.
 *
 * What was got and not settled is not counted as ready. A queue that is being deleted must not look empty for that:
 * of a quorum queue, as the delay levels are, the broker counts each that was got as a consumer, but of Q.dead, a
 * classic queue (unless somebody else made it), it says nothing. So its shelf has a consumer too, from before the
 * first get until it is closed. One can't be had without a message, if there is any: that is the spare, until a
 * browse takes it, in place of one that it gets beyond its limit, which goes back.
 *
 * A look puts back by nack, which is harmless where there is no delivery limit; settling.c knows where there is.
 */

/* Few enough that a settlement doesn't wait long behind them. */
#define GETS_AT_A_TIME 32
#define SHELF_KEY_BYTES (MQFS_NAME_MAX + 3)
#define CONSUMER_TAG "mqfs-looks"

struct shelf {
	struct holder holder;      /* first: a holder is a shelf's */
	char key[SHELF_KEY_BYTES]; /* place and queue */
	struct browse *browses;    /* utlist; the first is being served */
	/* What its consumer was sent and no browse took yet, or NULL. Closing the channel puts it back. */
	struct mqfs_delivery *spare;
	UT_hash_handle by_key;
};

struct browse {
	struct job job;
	struct browse *prev, *next;
	struct looking *looking;
	char *queue;
	enum mqfs_place place;
	size_t limit;
	mqfs_browse_fn *done; /* NULL: answered */
	void *arg;
	int64_t levels[KNOWN_LEVELS]; /* RETRY: to get from; DEAD: one */
	size_t levels_count;
	size_t level;   /* the present one */
	size_t asked;   /* gets on their way */
	bool exhausted; /* the present one had nothing more */
	struct mqfs_delivery **deliveries;
	size_t count;
};

struct looking {
	struct connection *connection;
	struct topology *topology;
	struct settling settling;
	_Atomic uint64_t *generations;
	struct shelf *shelves; /* uthash by key; the owner thread's */
	bool connected;
};

/* ---- browses ---- */

/* What it got is stale. */
static void browse_forget(struct browse *browse)
{
	for (size_t i = 0; i < browse->count; i++)
		mqfs_delivery_unref(browse->deliveries[i]);
	browse->count = 0;
}

static struct browse *browse_free(struct browse *browse)
{
	browse_forget(browse);
	free(browse->deliveries);
	free(browse->queue);
	free(browse);
	return NULL;
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

static void browse_fail(struct job *job, int result, const char *reason)
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

static struct shelf *shelf_get(struct looking *looking, enum mqfs_place place, const char *queue)
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

/* Its channel is no more, or never was: every browse that waits for it fails. */
static void shelf_fail(struct looking *looking, struct shelf *shelf, int result)
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

static int shelf_open(struct looking *looking, struct shelf *shelf, const struct browse *browse)
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

static void shelf_continue(struct looking *looking, struct shelf *shelf)
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

static void browse_run(struct job *job, void *role)
{
	struct browse *browse = (struct browse *)job;
	struct looking *looking = role;
	struct shelf *shelf = shelf_get(looking, browse->place, browse->queue);
	int r;

	if (!shelf) {
		browse_fail(job, -ENOMEM, NULL);
		return;
	}
	DL_APPEND(shelf->browses, browse);
	r = shelf_open(looking, shelf, browse);
	if (r < 0) {
		shelf_fail(looking, shelf, r == -ENOENT ? 0 : r == -ECONNRESET ? -ETIMEDOUT : r);
		return;
	}
	shelf_continue(looking, shelf);
}

/* ---- what the broker says ---- */

/* Any shelf's gets are answers that it owes. */
static void note_owed(struct looking *looking)
{
	struct shelf *shelf, *tmp;
	bool owed = false;

	HASH_ITER(by_key, looking->shelves, shelf, tmp)
	{
		owed |= shelf->browses && shelf->browses->asked > 0;
	}
	connection_expect(looking->connection, owed);
}

static void on_message(void *arg, struct frame_content *content)
{
	struct looking *looking = arg;
	struct shelf *shelf = (struct shelf *)holder_find(&looking->settling, content->channel);
	struct browse *browse = shelf ? shelf->browses : NULL;
	struct mqfs_delivery *delivery;
	bool got = content->kind == FRAME_GET;

	if (!shelf || (got && (!browse || browse->asked == 0)) || (!got && shelf->spare))
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
	note_owed(looking);
	shelf_continue(looking, shelf);
}

static void on_empty(void *arg, amqp_channel_t channel)
{
	struct looking *looking = arg;
	struct shelf *shelf = (struct shelf *)holder_find(&looking->settling, channel);

	if (!shelf || !shelf->browses || shelf->browses->asked == 0)
		return;
	shelf->browses->asked--;
	shelf->browses->exhausted = true;
	note_owed(looking);
	shelf_continue(looking, shelf);
}

/* Q.dead was deleted, or its node is down: what was held of it is there again, or gone with it. */
static void on_cancelled(void *arg, amqp_channel_t channel, const char *consumer_tag)
{
	struct looking *looking = arg;
	struct shelf *shelf = (struct shelf *)holder_find(&looking->settling, channel);

	(void)consumer_tag;
	if (!shelf)
		return;
	shelf_fail(looking, shelf, 0);
	connection_channel_close(looking->connection, channel);
}

static void on_channel_closed(void *arg, amqp_channel_t channel, int code, const char *text)
{
	struct looking *looking = arg;
	struct shelf *shelf = (struct shelf *)holder_find(&looking->settling, channel);

	(void)text;
	connection_channel_gone(looking->connection, channel);
	/* A queue that has just been deleted holds nothing. */
	if (shelf)
		shelf_fail(looking, shelf, code == AMQP_NOT_FOUND ? 0 : connection_errno(code));
}

static void on_released(struct holder *holder, void *owner)
{
	(void)holder;
	(void)owner;
}

/* ---- the role ---- */

static int looking_opened(void *arg)
{
	struct looking *looking = arg;

	looking->connected = true;
	return 0;
}

static void looking_lost(void *arg, int result, const char *reason)
{
	struct looking *looking = arg;
	struct shelf *shelf, *tmp;

	(void)reason;
	looking->connected = false;
	HASH_ITER(by_key, looking->shelves, shelf, tmp)
	{
		shelf_fail(looking, shelf, result);
	}
}

/* Answers what is late with what it has got so far. Its gets that are on their way are put back as they come. */
static void shelf_expire(struct shelf *shelf, int64_t now_ms, int64_t *due_ms)
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

static int64_t looking_work(void *arg, int64_t now_ms)
{
	struct looking *looking = arg;
	struct shelf *shelf, *tmp;
	int64_t due_ms = MQFS_NEVER;

	HASH_ITER(by_key, looking->shelves, shelf, tmp)
	{
		amqp_channel_t channel = shelf->holder.channel;

		shelf_expire(shelf, now_ms, &due_ms);
		if (shelf->browses || shelf->holder.held || connection_is_behind(looking->connection))
			continue;
		shelf_fail(looking, shelf, 0);
		connection_channel_close(looking->connection, channel);
	}
	return due_ms;
}

static const struct frame_events looking_events = {
    .content = on_message,
    .empty = on_empty,
    .cancelled = on_cancelled,
    .channel_closed = on_channel_closed,
};

const struct connection_role looking_role = {
    .name = "look",
    .lazy = true,
    .events = &looking_events,
    .opened = looking_opened,
    .lost = looking_lost,
    .work = looking_work,
};

struct looking *looking_new(struct connection *connection, struct publisher *publisher, struct topology *topology,
                            _Atomic uint64_t *generations)
{
	struct looking *looking = calloc(1, sizeof(*looking));

	if (!looking)
		return NULL;
	looking->connection = connection;
	looking->topology = topology;
	looking->generations = generations;
	looking->settling = (struct settling){.connection = connection,
	                                      .publisher = publisher,
	                                      .topology = topology,
	                                      .released = on_released,
	                                      .flush_ms = MQFS_NEVER};
	return looking;
}

struct looking *looking_free(struct looking *looking)
{
	if (!looking)
		return NULL;
	assert(!looking->shelves);
	free(looking);
	return NULL;
}

struct settling *looking_settling(struct looking *looking)
{
	return &looking->settling;
}

/* ---- any thread ---- */

/* On topology's thread. */
static void levels_found(void *arg, int result, const int64_t *levels_ms, size_t count)
{
	struct browse *browse = arg;

	if (result < 0 || count == 0) {
		browse_fail(&browse->job, result == -ENOENT ? 0 : result, NULL);
		return;
	}
	assert(count <= KNOWN_LEVELS);
	memcpy(browse->levels, levels_ms, count * sizeof(*levels_ms));
	browse->levels_count = count;
	connection_submit(browse->looking->connection, &browse->job);
}

int looking_browse(struct looking *looking, const char *queue, enum mqfs_place place, size_t limit, int64_t deadline_ms,
                   mqfs_browse_fn *done, void *arg)
{
	struct browse *browse = calloc(1, sizeof(*browse));

	if (!browse)
		return -ENOMEM;
	*browse = (struct browse){
	    .job = {.run = browse_run,
	            .fail = browse_fail,
	            .deadline_ms = deadline_ms,
	            .late_result = -EHOSTDOWN,
	            .away_result = -EHOSTDOWN},
	    .looking = looking,
	    .queue = strdup(queue),
	    .place = place,
	    .limit = limit,
	    .done = done,
	    .arg = arg,
	};
	if (browse->queue && topology_levels(looking->topology, queue, place, deadline_ms, levels_found, browse) == 0)
		return 0;
	browse_free(browse);
	return -ENOMEM;
}
