<?php
// A sample site, without composer: one page answers every address that is no file (see .htaccess).
// For /balance it asks payments, and passes on what marks the request as a sandbox's.
// The router takes the service's prefix off the path (`strip_prefix` in the catalog) and says it in X-Forwarded-Prefix.
declare(strict_types=1);

/** Where another service is: in a sandbox what SDP says, elsewhere (in the baseline, at home) what PAYMENTS_URL says. */
function address(string $service): string
{
    return rtrim(getenv("SDP_ROUTE_$service") ?: getenv("{$service}_URL") ?: '', '/');
}

/** What marks this request as a sandbox's: passed on to whatever is called because of it, the whole chain stays in the sandbox. */
function marks(): array
{
    $headers = [];
    foreach (['baggage' => 'HTTP_BAGGAGE', 'sdp-routing-key' => 'HTTP_SDP_ROUTING_KEY'] as $name => $variable) {
        if (($_SERVER[$variable] ?? '') !== '') {
            $headers[] = "$name: {$_SERVER[$variable]}";
        }
    }
    return $headers;
}

/** What another service answers; null if it does not. */
function get(string $url): ?array
{
    $http = ['header' => marks(), 'timeout' => 10, 'ignore_errors' => false];
    $body = @file_get_contents($url, false, stream_context_create(['http' => $http]));
    return $body === false ? null : json_decode($body, true);
}

$prefix = rtrim($_SERVER['HTTP_X_FORWARDED_PREFIX'] ?? '', '/');
$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH) ?: '/';
$shown = fn (string $text): string => htmlspecialchars($text, ENT_QUOTES, 'UTF-8');

if ($path === '/healthz') {
    header('Content-Type: text/plain');
    echo "ok\n";
    return;
}
if ($path === '/balance') {
    // Asked of another service, in whatever sandbox this request came from.
    $balance = get(address('PAYMENTS') . '/balance');
    header('Content-Type: application/json');
    if ($balance === null) {
        http_response_code(502);
    }
    echo json_encode(['sandbox' => getenv('SDP_SANDBOX') ?: null, 'payments' => $balance]), "\n";
    return;
}
if (preg_match('#^/orders/(\d{1,9})$#', $path, $found)) {
    header('Content-Type: application/json');
    echo json_encode(['order' => (int) $found[1], 'sandbox' => getenv('SDP_SANDBOX') ?: null]), "\n";
    return;
}
if ($path !== '/') {
    http_response_code(404);
}
?>
<!doctype html>
<title>Shop</title>
<link rel="stylesheet" href="<?= $shown($prefix) ?>/style.css">
<?php if ($path === '/'): ?>
<h1>Shop</h1>
<p>Served from <?= $shown(getenv('SDP_REF') ?: 'somewhere') ?>. See <a href="<?= $shown($prefix) ?>/orders/7">order 7</a>.</p>
<?php else: ?>
<h1>There is no <?= $shown($path) ?></h1>
<?php endif ?>
