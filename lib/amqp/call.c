/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include <mqfs/clock.h>
#define LOG_TOPIC "amqp.call"
#include <mqfs/log.h>

#include "connection.h"
#include "watchdog.h"

/*
 * Calls into librabbitmq that may block, and channels. A synchronous call ends by librabbitmq's own
 * rpc time-out when the broker is silent, but not when the socket takes no more: that is what arming is for.
 */

#define CALL_GRACE_MS 500

void connection_arm(struct connection *connection, int64_t deadline_ms)
{
	atomic_store(&connection->armed_ms, deadline_ms);
	watchdog_notify(connection->watchdog, deadline_ms);
}

void connection_expect(struct connection *connection, bool answer)
{
	atomic_store(&connection->asked_ms, answer ? mqfs_clock_monotonic_ms() : 0);
}

int64_t connection_silent_ms(const struct connection *connection)
{
	int64_t asked_ms = atomic_load(&connection->asked_ms);

	return asked_ms ? mqfs_clock_monotonic_ms() - asked_ms : 0;
}

void connection_arm_call(struct connection *connection)
{
	int64_t until_ms = mqfs_clock_monotonic_ms() + CONNECTION_CALL_MS + CALL_GRACE_MS;

	connection_expect(connection, true);
	connection_arm(connection, until_ms < connection->calls_until_ms ? until_ms : connection->calls_until_ms);
}

int connection_sent(struct connection *connection, int status)
{
	atomic_store(&connection->armed_ms, MQFS_NEVER);
	connection_expect(connection, false);
	if (status >= 0)
		return 0;
	if (status == AMQP_STATUS_HEARTBEAT_TIMEOUT)
		connection_fail(connection, "the broker has gone silent");
	else if (status == AMQP_STATUS_TIMEOUT)
		connection_fail(connection, "the broker did not answer in time");
	else if (status == AMQP_STATUS_BAD_AMQP_DATA || status == AMQP_STATUS_UNKNOWN_METHOD ||
	         status == AMQP_STATUS_UNKNOWN_CLASS)
		connection_fail(connection, "what came from the broker is not AMQP 0-9-1");
	else
		connection_fail(connection, "the connection was lost");
	return -ECONNRESET;
}

int connection_errno(int reply_code)
{
	switch (reply_code) {
	case AMQP_NOT_FOUND:
		return -ENOENT;
	case AMQP_ACCESS_REFUSED:
	case AMQP_RESOURCE_LOCKED:
		return -EACCES;
	case AMQP_CONTENT_TOO_LARGE:
		return -EFBIG;
	default:
		return -EPERM;
	}
}

static int on_channel_close(struct connection *connection, amqp_channel_t channel, const amqp_channel_close_t *close)
{
	amqp_channel_close_ok_t ok = {0};
	int status;

	connection->refusal.code = close->reply_code;
	frames_text(close->reply_text, connection->refusal.text, sizeof(connection->refusal.text));
	connection_arm_call(connection);
	status = amqp_send_method(connection->state, channel, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok);
	if (connection_sent(connection, status) < 0)
		return -ECONNRESET;
	connection_channel_gone(connection, channel);
	return connection_errno(close->reply_code);
}

static int on_connection_close(struct connection *connection, const amqp_connection_close_t *close)
{
	amqp_connection_close_ok_t ok = {0};

	connection->refusal.code = close->reply_code;
	frames_text(close->reply_text, connection->refusal.text, sizeof(connection->refusal.text));
	connection_arm_call(connection);
	amqp_send_method(connection->state, 0, AMQP_CONNECTION_CLOSE_OK_METHOD, &ok);
	connection_fail(connection, "the broker closed the connection: %d %s", connection->refusal.code,
	                connection->refusal.text);
	return connection_sent(connection, AMQP_STATUS_CONNECTION_CLOSED);
}

int connection_replied(struct connection *connection, amqp_channel_t channel, amqp_rpc_reply_t reply)
{
	connection->refusal.code = 0;
	switch (reply.reply_type) {
	case AMQP_RESPONSE_NORMAL:
		return connection_sent(connection, AMQP_STATUS_OK);
	case AMQP_RESPONSE_SERVER_EXCEPTION:
		if (reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD)
			return on_channel_close(connection, channel, reply.reply.decoded);
		return on_connection_close(connection, reply.reply.decoded);
	default:
		return connection_sent(connection,
		                       reply.library_error < 0 ? reply.library_error : AMQP_STATUS_TCP_ERROR);
	}
}

int connection_called(struct connection *connection, amqp_channel_t channel)
{
	return connection_replied(connection, channel, amqp_get_rpc_reply(connection->state));
}

/* ---- channels ---- */

static bool bit(const uint8_t *bits, unsigned at)
{
	return bits[at / 8] & 1u << at % 8;
}

static void set_bit(uint8_t *bits, unsigned at)
{
	bits[at / 8] |= (uint8_t)(1u << at % 8);
}

/* The lowest free number, since librabbitmq keeps memory for each that was ever used. */
static amqp_channel_t free_channel(const struct connection *connection)
{
	int max = amqp_get_channel_max(connection->state);

	for (int at = 1; at < (int)sizeof(connection->channels) * 8 && (max == 0 || at <= max); at++)
		if (!bit(connection->channels, (unsigned)at))
			return (amqp_channel_t)at;
	return 0;
}

/* Frames of a closed channel that were read while a call waited are still to be dispatched, the rest of a message
 * perhaps that is half read, and must not be taken for its successor's. */
static void reuse_channels(struct connection *connection)
{
	if (amqp_frames_enqueued(connection->state))
		return;
	for (size_t i = 0; i < sizeof(connection->channels); i++)
		connection->channels[i] &= (uint8_t)~connection->retired[i];
	memset(connection->retired, 0, sizeof(connection->retired));
}

int connection_channel_open(struct connection *connection, amqp_channel_t *ret_channel)
{
	amqp_channel_t channel;
	int r;

	reuse_channels(connection);
	channel = free_channel(connection);
	if (channel == 0)
		return -EMFILE;
	set_bit(connection->channels, channel);
	frames_forget(&connection->frames, channel);
	connection_arm_call(connection);
	amqp_channel_open(connection->state, channel);
	r = connection_called(connection, channel);
	if (r < 0)
		return -ECONNRESET;
	*ret_channel = channel;
	return 0;
}

bool connection_is_behind(const struct connection *connection)
{
	return connection->state && amqp_frames_enqueued(connection->state);
}

void connection_channel_gone(struct connection *connection, amqp_channel_t channel)
{
	set_bit(connection->retired, channel);
}

void connection_channel_close(struct connection *connection, amqp_channel_t channel)
{
	connection_arm_call(connection);
	if (connection_replied(connection, channel,
	                       amqp_channel_close(connection->state, channel, AMQP_REPLY_SUCCESS)) == 0)
		connection_channel_gone(connection, channel);
}
