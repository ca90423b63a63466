# Objects, hashes, strings and arrays, sorted, grouped and joined.
Order = Struct.new(:number, :customer, :lines, :note)

total = 0
kept = {}
ARGV[0].to_i.times do |round|
  orders = Array.new(4000) do |n|
    number = n + round
    Order.new(number, "customer #{n % 101}", Array.new(number % 9) { |i| ["item-#{(number * 7 + i) % 997}", i + 1] },
              "x" * (number % 700))
  end
  by_item = Hash.new { |hash, item| hash[item] = [] }
  orders.each { |order| order.lines.each { |item, count| by_item[item] << order.number * count } }
  kept[round % 5] = by_item
  text = by_item.sort.map { |item, counts| "#{item}=#{counts.sum}" }.join(" ")
  total += text.split("-").map(&:length).sum + orders.sum { |order| order.note.sub("x", "yy").length }
end
puts total
