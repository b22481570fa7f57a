<?php
// A sample site, without composer: one page answers every address that is no file (see .htaccess).
// The router takes the service's prefix off the path (`strip_prefix` in the catalog) and says it in X-Forwarded-Prefix.
declare(strict_types=1);

$prefix = rtrim($_SERVER['HTTP_X_FORWARDED_PREFIX'] ?? '', '/');
$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH) ?: '/';
$shown = fn (string $text): string => htmlspecialchars($text, ENT_QUOTES, 'UTF-8');

if ($path === '/healthz') {
    header('Content-Type: text/plain');
    echo "ok\n";
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
