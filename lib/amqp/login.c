/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <amqp_tcp_socket.h>
#include <mqfs/clock.h>
#define LOG_TOPIC "amqp.login"
#include <mqfs/log.h>

#include "connection.h"
#include "resolve.h"

/*
 * From a host in the URL to a connection that is logged in. What goes wrong is told in our own
 * words: the broker's may name the user.
 *
 * A host that hangs may not eat the time of the others: with several in the URL, each has its share of
 * connect-timeout, and each address of a host its share of that.
 *
 * A TLS socket will take the place of socket_new.
 */

#define CONNECT_MS 3000
#define HANDSHAKE_MS 5000
#define HANDSHAKE_GRACE_MS 500
#define SHARE_MIN_MS 500
#define HANDSHAKE_MIN_MS (SHARE_MIN_MS / 2)
/* The largest frame: with this size alone does librabbitmq send a body that fills its last frame without delay. */
#define FRAME_MAX 131072
#define CHANNEL_MAX 2047

static struct timeval to_timeval(int64_t ms)
{
	return (struct timeval){.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
}

/* How long the present host may take in all. */
static int64_t share_ms(const struct connection *connection)
{
	int64_t share_ms = connection->settings.connect_timeout_ms / (int64_t)connection->url->count;

	if (share_ms > CONNECT_MS + HANDSHAKE_MS)
		return CONNECT_MS + HANDSHAKE_MS;
	return share_ms > SHARE_MIN_MS ? share_ms : SHARE_MIN_MS;
}

static int resolve(struct connection *connection, const struct url_host *host, int64_t deadline_ms,
                   resolve_address_t addresses[RESOLVE_ADDRESSES_MAX], size_t *ret_count)
{
	int r = resolve_host(host->name, deadline_ms, addresses, ret_count);

	if (r == 0)
		return 0;
	connection_fail(connection,
	                r == -ENOENT ? "the host name %s can't be resolved"
	                             : "the host name %s can't be resolved: no answer in time",
	                host->name);
	return -EHOSTDOWN;
}

/* An address as text, so that no name is looked up in here. AMQP_STATUS_… */
static int open_address(struct connection *connection, const char *address, int port, int64_t timeout_ms)
{
	amqp_socket_t *socket = amqp_tcp_socket_new(connection->state);
	struct timeval timeout = to_timeval(timeout_ms > 1 ? timeout_ms : 1);

	return socket ? amqp_socket_open_noblock(socket, address, port, &timeout) : AMQP_STATUS_NO_MEMORY;
}

static int socket_new(struct connection *connection, const struct url_host *host, int64_t deadline_ms)
{
	resolve_address_t addresses[RESOLVE_ADDRESSES_MAX];
	bool silent = false;
	size_t count;
	int r = resolve(connection, host, deadline_ms, addresses, &count);

	for (size_t i = 0; r == 0 && i < count; i++) {
		int64_t left_ms = deadline_ms - mqfs_clock_monotonic_ms();
		int status = open_address(connection, addresses[i], host->port, left_ms / (int64_t)(count - i));

		if (status == AMQP_STATUS_OK)
			return 0;
		silent |= status == AMQP_STATUS_TIMEOUT;
	}
	if (r < 0)
		return r;
	connection_fail(connection, silent ? "%s, port %d, does not answer" : "nobody listens at %s, port %d",
	                host->name, host->port);
	return -EHOSTDOWN;
}

/* Unacknowledged data ends the connection, and a duplicate of the socket is given to the watchdog. */
static int socket_prepare(struct connection *connection)
{
	unsigned timeout_ms = (unsigned)connection->settings.heartbeat_ms * 2;
	int fd = amqp_get_sockfd(connection->state), copy;

	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (copy < 0) {
		connection_fail(connection, "no file descriptor is left");
		return -EMFILE;
	}
	pthread_mutex_lock(&connection->lock);
	connection->watch_fd = copy;
	pthread_mutex_unlock(&connection->lock);
	return 0;
}

static amqp_table_entry_t text_entry(const char *name, const char *text)
{
	return (amqp_table_entry_t){
	    .key = amqp_cstring_bytes(name),
	    .value = {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = amqp_cstring_bytes(text)},
	};
}

static amqp_table_entry_t true_entry(const char *name)
{
	return (amqp_table_entry_t){
	    .key = amqp_cstring_bytes(name),
	    .value = {.kind = AMQP_FIELD_KIND_BOOLEAN, .value.boolean = 1},
	};
}

static amqp_rpc_reply_t authenticate(struct connection *connection, int64_t deadline_ms)
{
	const struct url *url = connection->url;
	char host[64] = "", name[128] = "";
	amqp_table_entry_t capabilities[] = {
	    true_entry("publisher_confirms"),           true_entry("basic.nack"),
	    true_entry("consumer_cancel_notify"),       true_entry("connection.blocked"),
	    true_entry("authentication_failure_close"),
	};
	amqp_table_entry_t entries[] = {
	    text_entry("product", "mqfs"),
	    text_entry("version", MQFS_VERSION),
	    text_entry("connection_name", name),
	    {.key = amqp_cstring_bytes("capabilities"),
	     .value = {.kind = AMQP_FIELD_KIND_TABLE,
	               .value.table = {.num_entries = sizeof(capabilities) / sizeof(capabilities[0]),
	                               .entries = capabilities}}},
	};
	amqp_table_t properties = {.num_entries = sizeof(entries) / sizeof(entries[0]), .entries = entries};
	struct timeval timeout = to_timeval(deadline_ms - mqfs_clock_monotonic_ms());

	gethostname(host, sizeof(host) - 1);
	snprintf(name, sizeof(name), "mqfs %s %s:%d", connection->role->name, host, (int)getpid());
	entries[2] = text_entry("connection_name", name);
	amqp_set_handshake_timeout(connection->state, &timeout);
	connection_arm(connection, deadline_ms + HANDSHAKE_GRACE_MS);
	return amqp_login_with_properties(connection->state, url->vhost, CHANNEL_MAX, FRAME_MAX,
	                                  (int)(connection->settings.heartbeat_ms / 1000), &properties,
	                                  AMQP_SASL_METHOD_PLAIN, url->user, url->password);
}

static int refused(struct connection *connection, const amqp_connection_close_t *close)
{
	char text[256];

	frames_text(close->reply_text, text, sizeof(text));
	if (close->reply_code == AMQP_ACCESS_REFUSED) {
		connection_fail(connection, "the broker refuses the user name or the password");
		return -EACCES;
	}
	if (close->reply_code == AMQP_NOT_ALLOWED && strstr(text, "not found")) {
		connection_fail(connection, "the broker has no virtual host \"%s\"", connection->url->vhost);
		return -ENOENT;
	}
	if (close->reply_code == AMQP_NOT_ALLOWED && strstr(text, "refused")) {
		connection_fail(connection, "the user has no access to the virtual host \"%s\"",
		                connection->url->vhost);
		return -EACCES;
	}
	connection_fail(connection, "the broker refuses the connection (%u)", close->reply_code);
	return -EHOSTDOWN;
}

static int check_login(struct connection *connection, amqp_rpc_reply_t reply)
{
	const struct url_host *host = &connection->url->hosts[connection->host];

	if (reply.reply_type == AMQP_RESPONSE_NORMAL)
		return 0;
	if (reply.reply_type == AMQP_RESPONSE_SERVER_EXCEPTION && reply.reply.id == AMQP_CONNECTION_CLOSE_METHOD)
		return refused(connection, reply.reply.decoded);
	switch (reply.library_error) {
	case AMQP_STATUS_TIMEOUT:
		connection_fail(connection, "%s, port %d, took the connection but does not answer", host->name,
		                host->port);
		return -ETIMEDOUT;
	case AMQP_STATUS_BROKER_UNSUPPORTED_SASL_METHOD:
		connection_fail(connection, "the broker takes no user name and password");
		return -EACCES;
	case AMQP_STATUS_CONNECTION_CLOSED:
	case AMQP_STATUS_SOCKET_ERROR:
		connection_fail(connection, "%s, port %d, closed the connection during the handshake", host->name,
		                host->port);
		return -EHOSTDOWN;
	default:
		connection_fail(connection, "%s, port %d, does not speak AMQP 0-9-1", host->name, host->port);
		return -EHOSTDOWN;
	}
}

static void server_property(const amqp_table_t *properties, const char *name, char *text, size_t bytes)
{
	text[0] = '\0';
	for (int i = 0; i < properties->num_entries; i++) {
		const amqp_table_entry_t *entry = &properties->entries[i];

		if (entry->value.kind == AMQP_FIELD_KIND_UTF8 && entry->key.len == strlen(name) &&
		    memcmp(entry->key.bytes, name, entry->key.len) == 0)
			frames_text(entry->value.value.bytes, text, bytes);
	}
}

static void learn_about_broker(struct connection *connection)
{
	const amqp_table_t *properties = amqp_get_server_properties(connection->state);
	unsigned major = 0, minor = 0, patch = 0;
	char product[32], version[24];

	server_property(properties, "product", product, sizeof(product));
	server_property(properties, "version", version, sizeof(version));
	sscanf(version, "%3u.%3u.%3u", &major, &minor, &patch);
	connection->version = (int)(major * 10000 + (minor < 100 ? minor : 99) * 100 + (patch < 100 ? patch : 99));
	pthread_mutex_lock(&connection->lock);
	snprintf(connection->status.product, sizeof(connection->status.product), "%s %s", product, version);
	pthread_mutex_unlock(&connection->lock);
}

static int64_t earlier(int64_t a_ms, int64_t b_ms)
{
	return a_ms < b_ms ? a_ms : b_ms;
}

/* Gives the handshake a time worth speaking of, however long connecting took. */
static int64_t handshake_deadline(int64_t deadline_ms)
{
	int64_t now_ms = mqfs_clock_monotonic_ms();

	deadline_ms = earlier(deadline_ms, now_ms + HANDSHAKE_MS);
	return deadline_ms > now_ms + HANDSHAKE_MIN_MS ? deadline_ms : now_ms + HANDSHAKE_MIN_MS;
}

int connection_login(struct connection *connection)
{
	int64_t now_ms = mqfs_clock_monotonic_ms(), deadline_ms = now_ms + share_ms(connection);
	struct timeval timeout = to_timeval(CONNECTION_CALL_MS);
	int r;

	pthread_mutex_lock(&connection->lock);
	url_describe(connection->url, connection->host, connection->status.peer, sizeof(connection->status.peer));
	pthread_mutex_unlock(&connection->lock);
	connection_expect(connection, true);
	connection->state = amqp_new_connection();
	if (!connection->state) {
		connection_fail(connection, "out of memory");
		return -ENOMEM;
	}
	r = socket_new(connection, &connection->url->hosts[connection->host],
	               earlier(now_ms + CONNECT_MS, deadline_ms));
	if (r == 0)
		r = socket_prepare(connection);
	if (r == 0)
		r = check_login(connection, authenticate(connection, handshake_deadline(deadline_ms)));
	connection_sent(connection, AMQP_STATUS_OK);
	if (r < 0)
		return r;
	amqp_set_rpc_timeout(connection->state, &timeout);
	learn_about_broker(connection);
	return 0;
}
